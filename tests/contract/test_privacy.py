"""What leaves the device: MQTT to the configured broker and nothing else (docs/privacy.md).

Three independent observations, since each alone has a gap. Audit events name every host and address that Python code
uses, but do not see native code. Sockets in /proc show native code's, but only those open at the time of a poll. In a
network namespace in which every address is local, the kernel counts every connection attempt and datagram of every
thread and child, whoever makes it; it needs unshare and ip. ONNX Runtime uploads some seconds after its first session,
so that a short run shows no connection even with its reports on: therefore the tests also look for the cache that it
creates before, and for the variable's value at the moment of the import.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge.engine.build_child import PROCUNIT as BUILD_PROCUNIT
from edge.system.telemetry import SWITCHES
from tests.support.broker import Broker, Subscriber
from tests.support.device import PROCUNIT, REPOSITORY, new_device, results_of
from tests.support.network import SocketPoller, WatchedChild, hexadecimal, namespace_problem, outgoing
from tests.support.tiny_run import build_tiny_run

PARTS = 6
NOTHING = {"tcp": 0, "udp": 0, "no_route": 0, "udp6": 0, "no_route6": 0}
COUNTED = "tests.support.counted_network"
ROOMS = ["edge", "training", "export", "calibration", "tools"]


@pytest.fixture
def watched(tmp_path: Path) -> WatchedChild:
    """A child's environment, with a home directory of its own."""
    return WatchedChild(tmp_path)


@pytest.fixture(scope="session")
def namespace() -> None:
    """Skips where no network namespace can be made."""
    problem = namespace_problem()
    if problem is not None:
        pytest.skip(problem)


def _python(watched: WatchedChild, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **watched.environment, **environment},
        capture_output=True,
        text=True,
        timeout=140,
        check=False,
    )


def test_the_daemon_connects_to_its_broker_alone(watched: WatchedChild, tmp_path: Path, broker: Broker) -> None:
    device = new_device(tmp_path / "device", broker.port, PARTS)
    with Subscriber(broker) as subscriber:
        process = device.start(**watched.environment)
        try:
            with SocketPoller(process.pid) as sockets:
                assert process.wait(60) == 0, device.log_text
        finally:
            process.kill()
            process.wait()
        subscriber.wait_for(lambda m: len(results_of(m)) == PARTS)
    connected = {hexadecimal(*address) for address in watched.addresses}
    assert connected - sockets.to_itself == {hexadecimal(broker.host, broker.port)}
    assert watched.names_resolved <= {broker.host}
    assert sockets.remotes == {hexadecimal(broker.host, broker.port)}
    assert watched.imports["onnxruntime"] == {"1"}
    assert watched.device_ids == []


def test_the_kernel_counts_no_other_connection_of_the_daemon(
    namespace: None, watched: WatchedChild, tmp_path: Path
) -> None:
    """One to the broker, one of paho-mqtt to itself: its thread waits on a loopback pair."""
    device = new_device(tmp_path / "device", 0, PARTS)
    assert outgoing(device.folder, COUNTED, "daemon", environment=watched.environment) == NOTHING | {"tcp": 2}
    assert watched.device_ids == []


def test_calibrate_opens_no_socket(namespace: None, watched: WatchedChild, tmp_path: Path) -> None:
    run = build_tiny_run(tmp_path)
    assert outgoing(tmp_path, COUNTED, "calibrate", str(run.path), environment=watched.environment) == NOTHING
    assert watched.addresses == []
    assert watched.imports["onnxruntime"] == {"1"}
    assert watched.device_ids == []


@pytest.mark.parametrize(
    ("attempt", "counted"),
    [
        ("s.socket().connect_ex(('192.0.2.1', 443))", {"tcp": 1}),
        ("s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b'?', ('192.0.2.1', 53))", {"udp": 1}),
    ],
)
def test_an_attempt_to_connect_elsewhere_would_be_counted(
    namespace: None, watched: WatchedChild, tmp_path: Path, attempt: str, counted: dict[str, int]
) -> None:
    code = f"import socket as s; {attempt}"
    assert outgoing(tmp_path, COUNTED, "python", code, environment=watched.environment) == NOTHING | counted
    assert [address[0] for address in watched.addresses] == ["192.0.2.1"]


@pytest.mark.slow
@pytest.mark.timeout(150)  # torch alone takes half a minute to import on a busy machine
@pytest.mark.parametrize("given", [True, False], ids=["weights given", "no weights given"])
def test_train_asks_the_hub_only_for_weights_that_it_was_not_given(
    watched: WatchedChild, tmp_path: Path, given: bool
) -> None:
    """The hub is a port that nobody serves, its cache is empty."""
    pytest.importorskip("torch", reason="needs the offline set")
    from tests.support.photographs import BACKBONE, write_weights

    file = write_weights(tmp_path / "weights.safetensors") if given else None
    backbone = BACKBONE if given else "efficientnet_b3"
    code = f"from pathlib import *\nfrom training.weights import trunk_weights\ntrunk_weights({backbone!r}, {file!r})"
    done = _python(watched, "-c", code, https_proxy="http://127.0.0.1:9", HF_HOME=str(tmp_path / "hub"))
    assert done.returncode == 0, done.stderr
    assert {tuple(address) for address in watched.addresses} == (set() if given else {("127.0.0.1", 9)})
    assert watched.imports["torch"] == watched.imports["huggingface_hub"] == {"1"}


@pytest.mark.parametrize("command", [BUILD_PROCUNIT, PROCUNIT], ids=["engine build child", "procunit"])
def test_the_switch_is_set_before_a_command_imports_anything(watched: WatchedChild, command: list[str]) -> None:
    done = _python(watched, *command[1:], "engine", "build", "--help")
    assert done.returncode == 0, done.stderr
    assert watched.imports["click"] == {"1"}
    assert {value for values in watched.imports.values() for value in values} == {"1"}


@pytest.mark.parametrize("room", ROOMS)
def test_importing_any_room_switches_every_report_off(watched: WatchedChild, room: str) -> None:
    names = [switch.variable for switch in SWITCHES]
    done = _python(watched, "-c", f"import os, {room}\nprint([os.environ[name] for name in {names}])")
    assert done.stdout.strip() == str([switch.value for switch in SWITCHES]), done.stderr


def test_the_engine_as_a_library_leaves_no_device_id(watched: WatchedChild) -> None:
    done = _python(watched, "-c", "import edge.engine.ort")
    assert done.returncode == 0, done.stderr
    assert watched.imports["onnxruntime"] == {"1"}
    assert watched.device_ids == []


def test_the_privacy_page_names_every_switch() -> None:
    page = (REPOSITORY / "docs/privacy.md").read_text()
    rows = dict(re.findall(r"^\| ([a-z-]+) \| `([A-Z_]+=\w+)` \|", page, re.MULTILINE))
    assert rows == {switch.package: f"{switch.variable}={switch.value}" for switch in SWITCHES}
