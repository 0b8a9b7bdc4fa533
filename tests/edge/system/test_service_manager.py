"""sd_notify over real unix sockets, and the watchdog that is fed only on progress."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.system.service_manager import Heartbeat, ServiceNotifier, WatchdogFeeder


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """The service manager's side: the value of NOTIFY_SOCKET and its socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.setblocking(False)
        name = f"procunit-{secrets.token_hex(4)}"
        if request.param == "path":
            listening.bind(str(tmp_path / name))
            yield str(tmp_path / name), listening
        else:
            listening.bind(f"\0{name}")
            yield f"@{name}", listening


def test_a_name_in_the_status_cannot_add_an_assignment(manager: tuple[str, socket.socket]) -> None:
    address, listening = manager
    ServiceNotifier({"NOTIFY_SOCKET": address}).status("frame a\nMAINPID=1 cannot be read")
    assert listening.recv(4096) == b"STATUS=frame a?MAINPID=1 cannot be read"


def test_each_call_is_one_datagram(manager: tuple[str, socket.socket]) -> None:
    address, listening = manager
    notifier = ServiceNotifier({"NOTIFY_SOCKET": address})
    notifier.ready("inspecting parts")
    notifier.status("camera lost")
    notifier.alive()
    notifier.stopping()
    notifier.extend("building the engine", 1.5)
    assert notifier.managed
    assert [listening.recv(4096) for _ in range(5)] == [
        b"READY=1\nSTATUS=inspecting parts",
        b"STATUS=camera lost",
        b"WATCHDOG=1",
        b"STOPPING=1",
        b"STATUS=building the engine\nEXTEND_TIMEOUT_USEC=1500000",
    ]


def test_without_a_manager_nothing_is_sent() -> None:
    notifier = ServiceNotifier({})
    notifier.ready("inspecting parts")
    assert notifier.watchdog_s is None
    assert not notifier.managed


def test_a_missing_manager_is_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ServiceNotifier({"NOTIFY_SOCKET": str(tmp_path / "missing")}).ready("inspecting parts")
    assert "cannot send READY=1" in caplog.text


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "2000000"}, 2.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, 2.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_timeout_is_read_from_the_environment(
    environment: dict[str, str], watchdog_s: float | None
) -> None:
    assert ServiceNotifier(environment).watchdog_s == watchdog_s


def test_the_watchdog_is_fed_only_when_the_heartbeat_advances(manager: tuple[str, socket.socket]) -> None:
    address, listening = manager
    heartbeat = Heartbeat()
    feeder = WatchdogFeeder(ServiceNotifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"}), heartbeat)
    assert feeder.interval_s == pytest.approx(0.1)
    for steps, fed in [(1, True), (0, False), (5, True), (0, False), (0, False)]:
        for _ in range(steps):
            heartbeat.beat()
        feeder.feed()
        if fed:
            assert listening.recv(4096) == b"WATCHDOG=1"
        with pytest.raises(BlockingIOError):
            listening.recv(4096)
