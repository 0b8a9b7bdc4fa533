"""`procunit run` and `procunit check-config` as a technician calls them."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edge.cli.run import check_config, run
from edge.system.log import JournalFormatter
from tests.support.broker import free_port
from tests.support.device import PROCUNIT, Device, new_device


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return new_device(tmp_path / "device", free_port(), 2)


def procunit(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROCUNIT, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )


def test_a_good_file_is_summed_up(device: Device) -> None:
    checked = procunit("check-config", str(device.config))
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith(f"{device.config}: fine\n")
    for shown in ("demo/edge-1/v1/result", f"127.0.0.1:{device.port}", "demo-key.pub (demonstration)", "kind replay"):
        assert shown in checked.stdout


def test_an_engine_that_has_to_be_built_is_summed_up_with_its_precision(device: Device) -> None:
    device.sections["engine"] = {"kind": "tensorrt", "precision": "int8"}
    device.write_settings()
    checked = procunit("check-config", str(device.config))
    assert "tensorrt, int8 first; built at the first start" in checked.stdout


def test_every_problem_is_printed_and_the_exit_code_is_2(device: Device) -> None:
    device.config.write_text(device.config.read_text().replace("host:", "hots:").replace("threads: 1", "threads: -1"))
    checked = procunit("check-config", str(device.config))
    assert checked.returncode == 2
    problems = checked.stderr.splitlines()
    assert len(problems) == 4
    assert any("mqtt.hots: unknown key (it is '127.0.0.1'). Did you mean 'host'?" in line for line in problems)
    assert all(line.startswith(f"{device.config}:") for line in problems[:3])
    assert problems[3] == f"procunit: {device.config}: 3 problems"
    assert "Traceback" not in checked.stderr


def test_run_refuses_the_same_file_with_the_same_text(device: Device) -> None:
    device.config.write_text(device.config.read_text().replace("host:", "hots:"))
    refused = procunit("run", "--config", str(device.config))
    assert refused.returncode == 2
    assert "Did you mean 'host'?" in refused.stderr
    assert not (device.folder / "state").exists()


def test_an_untrusted_bundle_is_one_clear_line(device: Device) -> None:
    (device.folder / "bundle" / "manifest.sig").write_bytes(bytes(64))
    refused = procunit("run", "--config", str(device.config))
    assert refused.returncode == 2
    assert "procunit: " in refused.stderr
    assert "the signature is not by any trusted key (demo-key.pub)" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("command", [run, check_config])
def test_help_has_examples(command: click.Command) -> None:
    shown = CliRunner().invoke(command, ["--help"])
    assert shown.exit_code == 0
    assert "Examples:" in shown.output


def test_in_the_journal_every_line_has_its_priority(device: Device) -> None:
    (device.photos / "00000.png").write_bytes(b"no image")
    with device.log.open("wb") as log:
        status = os.fstat(log.fileno())
        process = subprocess.Popen(
            [*PROCUNIT, "run", "--config", str(device.config)],
            stdin=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"},
        )
        try:
            device.wait_for_log("stopping")
        finally:
            process.kill()
            process.wait()
    assert {line[:3] for line in device.log_text.splitlines()} == {"<6>", "<4>", "<3>"}


def test_a_traceback_keeps_its_priority_on_every_line() -> None:
    with pytest.raises(ValueError, match="two") as caught:
        int("two\nlines")
    info = (caught.type, caught.value, caught.tb)
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "failed", None, info)
    lines = JournalFormatter("%(message)s").format(record).splitlines()
    assert len(lines) >= 4
    assert all(line.startswith("<3>") for line in lines)


def test_a_daemon_that_runs_out_of_memory_is_restarted(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 2 is for what a person must correct: systemd starts the service again after 1 alone."""

    def failing(_settings: object) -> int:
        raise MemoryError

    monkeypatch.setattr("edge.cli.run.run_daemon", failing)
    result = CliRunner().invoke(run, ["--config", str(device.config)])
    assert result.exit_code == 1
