"""Messages of the real daemon to the service manager: ready after the gate, watchdog fed only on progress."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.doubles.scripted_camera import install
from tests.support.broker import free_port
from tests.support.device import Device, new_device, stop
from tests.support.manager import WATCHDOG_S, Manager


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.close()


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return new_device(tmp_path / "device", free_port(), 5)


def test_ready_is_sent_after_the_golden_gate_then_watchdog_then_stopping(manager: Manager, device: Device) -> None:
    device.camera |= {"parts_per_min": 600, "at_end": "hold"}
    device.write_settings()
    process = device.start(**manager.environment)
    try:
        assert "inspecting" in manager.listen_for("READY=1")
        assert "golden gate" in device.log_text
        assert any("golden frames" in message for message in manager.received[:-1])
        for _ in range(5):
            manager.listen_for("WATCHDOG=1", WATCHDOG_S)
        device.wait_for_log("broker_unreachable")
        assert "broker_unreachable" in manager.listen_for("STATUS=")
    finally:
        code = stop(process)
    assert code == 0
    manager.listen_for("STOPPING=1", 1)


def test_ready_is_never_sent_when_the_bundle_is_refused(manager: Manager, device: Device) -> None:
    (device.folder / "bundle" / "manifest.sig").write_bytes(bytes(64))
    process = device.start(**manager.environment)
    try:
        assert process.wait(60) == 2
    finally:
        process.kill()
        process.wait()
    while manager.listen(0.1) is not None:
        pass
    assert not any(message.startswith(("READY", "WATCHDOG")) for message in manager.received)


def test_when_the_engine_hangs_the_watchdog_is_not_fed_and_sigabrt_prints_the_stack(
    manager: Manager, device: Device
) -> None:
    device.camera["at_end"] = "hold"
    device.write_settings()
    process = device.start(sys.executable, "-m", "tests.support.hanging_daemon", **manager.environment)
    try:
        manager.listen_for("READY=1")
        deadline = time.monotonic() + 2 * WATCHDOG_S
        while (left_s := deadline - time.monotonic()) > 0:
            manager.listen(left_s)
        manager.received.clear()
        while manager.listen(2 * WATCHDOG_S) is not None:
            pass
        assert "WATCHDOG=1" not in manager.received
        assert process.poll() is None
        process.send_signal(signal.SIGABRT)
        assert process.wait(60) == -signal.SIGABRT
    finally:
        process.kill()
        process.wait()
    assert "Fatal Python error: Aborted" in device.log_text
    assert 'engines.py", line' in device.log_text
    assert 'inspector.py", line' in device.log_text


def test_a_lost_camera_does_not_stop_the_watchdog(manager: Manager, device: Device, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    install(packages)
    device.sections["camera"] = {"kind": "scripted", "steps": [1], "refusals": 1000}
    device.write_settings()
    process = device.start(**manager.environment, PYTHONPATH=str(packages))
    try:
        manager.listen_for("READY=1")
        device.wait_for_log("camera_failed")
        for _ in range(6):
            manager.listen_for("WATCHDOG=1", WATCHDOG_S)
        assert any("camera_failed" in message for message in manager.received)
    finally:
        code = stop(process)
    assert code == 0
