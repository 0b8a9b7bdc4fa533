"""The whole daemon: demo keys that are named as production keys, and files that others may change or read."""

from __future__ import annotations

import stat
import subprocess
from collections import Counter

import pytest

from edge.config.file import ConfigError, settings_from_file
from edge.contract.payloads import Event, Result
from edge.daemon import run_daemon
from edge.errors import ProcunitError
from edge.faults import FaultId
from edge.messages import Verdict
from tests.support.broker import Broker, Subscriber
from tests.support.device import PROCUNIT, REPOSITORY, Device, events_of, kept_in, results_of, settings_of


def run_to_the_end(device: Device, broker: Broker) -> tuple[list[Result], list[Event]]:
    """Run the device's process to the end of its replay; its results and events."""
    device.port = broker.port
    device.write_settings()
    with Subscriber(broker) as subscriber:
        assert device.run() == 0, device.log_text
        messages = subscriber.wait_for(lambda m: any(b'"stopped"' in r.payload for r in m))
    return results_of(messages), events_of(messages)


def test_a_demo_key_named_under_trusted_keys_is_reported_and_stays_a_demo_key(device: Device, broker: Broker) -> None:
    device.sections["bundle"] = {"path": "bundle", "trusted_keys": ["demo-key.pub"]}
    results, events = run_to_the_end(device, broker)
    assert [event.fault for event in events] == [FaultId.DEMO_KEY, FaultId.CAMERA_ENDED]
    assert events[0].detail == str(device.folder / "demo-key.pub")
    assert "signed with demo-key.pub (demonstration key)" in device.log_text
    assert Counter(r.verdict for r in results) == {Verdict.PASS: 16, Verdict.REJECT: 4}
    rejected = [why for result in results if result.verdict is Verdict.REJECT for why in result.why]
    assert {why.authority for why in rejected if why.scorer == "head"} == {"demo_reject"}
    checked = subprocess.run(
        [*PROCUNIT, "check-config", str(device.config)], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    assert "signed with demo-key.pub (demonstration)" in checked.stdout


def test_files_that_others_may_change_are_reported_until_the_commands_in_the_detail_were_run(
    device: Device, broker: Broker
) -> None:
    (device.folder / "bundle" / "golden").chmod(0o757)
    (device.folder / "bundle" / "bank.safetensors").chmod(0o666)
    _, events = run_to_the_end(device, broker)
    assert [event.fault for event in events] == [FaultId.OPEN_TO_OTHERS, FaultId.CAMERA_ENDED]
    for problem in events[0].detail.split("; "):
        subprocess.run(problem.rpartition("Run: ")[2].split(), check=True)
    _, events = run_to_the_end(device, broker)
    assert [event.fault for event in events] == [FaultId.CAMERA_ENDED]


def test_what_the_daemon_writes_is_readable_by_its_user_alone(device: Device, broker: Broker) -> None:
    run_to_the_end(device, broker)
    written = [device.folder / "state", *(device.folder / "state").rglob("*")]
    assert {"outbox.db", "frames"} <= {path.name for path in written}
    assert [path for path in written if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


def test_a_settings_file_that_everybody_may_change_is_refused_until_the_command_was_run(device: Device) -> None:
    device.config.chmod(0o646)
    with pytest.raises(ConfigError, match=f"every user of this device may change .*chmod o-w {device.config}"):
        settings_from_file(device.config)
    assert device.run() == 2
    assert "every user of this device may change this file" in device.log_text
    device.config.chmod(0o644)
    assert settings_from_file(device.config)


def test_a_trusted_key_that_everybody_may_change_stops_the_start_with_an_event(device: Device, quick_end: None) -> None:
    (device.folder / "demo-key.pub").chmod(0o666)
    with pytest.raises(ProcunitError, match="chmod o-w"):
        run_daemon(settings_of(device))
    _, events = kept_in(device)
    assert FaultId.BUNDLE_REFUSED in [event.fault for event in events]
    assert any("chmod o-w" in event.detail for event in events if event.fault is FaultId.BUNDLE_REFUSED)
