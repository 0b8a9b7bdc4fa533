"""`procunit label` when it cannot work; `test_daemon_commands.py` tests it with a device."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge.cli.main import root
from tests.support.broker import Broker, free_port
from tests.support.device import new_device


def labelled(folder: Path, port: int, rows: str = "P1,good\n") -> Result:
    device = new_device(folder, port, 1)
    csv = folder / "labels.csv"
    csv.write_text(f"part_id,label\n{rows}")
    return CliRunner().invoke(root, ["label", str(csv), "--config", str(device.config)])


def test_without_a_broker_there_is_a_clear_error(tmp_path: Path) -> None:
    outcome = labelled(tmp_path / "device", free_port())
    assert "the broker cannot be reached" in str(outcome.exception)
    assert "procunit mqtt check" in str(outcome.exception)


def test_without_a_running_device_there_is_a_clear_error(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.commands.client.REPLY_TIMEOUT_S", 0.5)
    outcome = labelled(tmp_path / "device", broker.port)
    assert "no reply" in str(outcome.exception)
    assert "demo/edge-1/v1/cmd/label" in str(outcome.exception)


def test_a_user_without_the_right_to_send_commands_gets_an_error(tmp_path: Path, broker: Broker) -> None:
    (tmp_path / "acl").write_text("topic read #\n")
    broker.stop()
    broker.forget(f"acl_file {tmp_path}/acl\n")
    broker.start()
    outcome = labelled(tmp_path / "device", broker.port)
    assert "the broker refused it: Not authorized" in str(outcome.exception)
