"""The daemon and its engine: built with published progress, lost, damaged, replaced, or unavailable.

Builds are TensorRT-RTX's real ones on the CPU; where an engine has to run, a test double replaces the GPU.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from edge.bundle.reader import BundleContent
from edge.config.file import settings_from_file
from edge.contract.payloads import Event, Result
from edge.daemon import run_daemon
from edge.engine.choice import OpenEngine, open_engine
from edge.engine.protocol import Engine
from edge.engine.settings import EngineSettings
from edge.faults import FaultId
from edge.messages import NotInspected
from edge.outbox.outbox import Outbox
from edge.state_dir import OUTBOX_FILE
from tests.support.broker import Broker, Subscriber, free_port
from tests.support.children import HANGS, PROGRESS, is_running, replace_child
from tests.support.device import PATIENT, ROOT, Device, events_of, new_device, stop
from tests.support.engines import PlanDouble, Trouble
from tests.support.manager import Manager

RTX: dict[str, object] = {"kind": "tensorrt_rtx", "precision": "fp16"}


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A device with 8 photographs, a bundle in two precisions and no broker."""
    monkeypatch.setattr("edge.daemon.STALLED_S", 0.0)
    monkeypatch.setattr("edge.mqtt.publisher.SEND_S", 0.0)
    device = new_device(tmp_path / "device", free_port(), 8, precisions=("fp16", "fp32"))
    device.sections["inspection"] = PATIENT
    return device


def run(device: Device, opened: OpenEngine) -> tuple[int, list[Result], list[Event]]:
    """Run the daemon; returns its exit code, and all unsent results and events of this and earlier runs."""
    device.write_settings()
    code = run_daemon(settings_from_file(device.config), opened)
    with Outbox(device.folder / "state" / OUTBOX_FILE) as outbox:
        messages = outbox.unacknowledged(0, 1000)
    results = [Result.model_validate_json(m.payload) for m in messages if m.topic == "result"]
    return code, results, [Event.model_validate_json(m.payload) for m in messages if m.topic == "event"]


def test_a_lost_engine_costs_one_part_and_is_opened_again_by_the_thread_that_owns_it(device: Device) -> None:
    trouble = Trouble(lost_at=(3, 6))
    code, results, events = run(device, trouble.open)
    assert code == 0
    assert {r.seq: r.not_inspected for r in results if r.not_inspected} == {
        3: NotInspected.ENGINE,
        6: NotInspected.ENGINE,
    }
    assert [r.seq for r in results] == list(range(1, 9))
    assert sorted(e.fault for e in events) == [FaultId.CAMERA_ENDED, FaultId.ENGINE_LOST]
    assert [engine.closed for engine in trouble.made] == [True] * 3
    assert set.union(*(engine.threads for engine in trouble.made)) == {"inspect"}


def test_an_engine_that_is_lost_repeatedly_ends_the_daemon_for_a_restart(device: Device) -> None:
    trouble = Trouble(lost_at=(2, 3, 4))
    code, results, events = run(device, trouble.open)
    assert code == 1
    assert [r.not_inspected for r in results[1:4]] == [NotInspected.ENGINE] * 3
    failed = next(e for e in events if e.fault is FaultId.THREAD_FAILED)
    assert "3 times within 10 minutes" in failed.detail
    assert [engine.closed for engine in trouble.made] == [True] * 3
    code, results, _ = run(device, open_engine)
    assert code == 0
    assert [r.seq for r in results] == list(range(1, 9))


def test_an_engine_that_cannot_be_opened_again_ends_the_daemon_for_a_restart(device: Device) -> None:
    class Once(Trouble):
        def open(self, bundle: BundleContent, settings: EngineSettings, *_: object, **__: object) -> Engine:
            self.drift = float(len(self.made))
            return super().open(bundle, settings)

    code, _, events = run(device, Once(lost_at=(2,)).open)
    assert code == 1
    assert FaultId.ENGINE_UNAVAILABLE in [e.fault for e in events]


@pytest.mark.parametrize("lines", [(), (PROGRESS,)], ids=["at its start", "in the middle"])
def test_a_signal_during_the_build_ends_the_daemon_at_once_and_cleanly(
    device: Device, monkeypatch: pytest.MonkeyPatch, lines: tuple[str, ...]
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")
    pid = replace_child(monkeypatch, device.folder, *lines, then=HANGS)
    device.sections["engine"] = RTX

    def interrupt() -> None:
        while not pid.exists() or not pid.read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    started_s = time.monotonic()
    code, results, events = run(device, open_engine)
    assert time.monotonic() - started_s < 6
    assert (code, results, events) == (0, [], [])
    assert not is_running(pid)


def test_an_engine_that_fails_the_gate_is_replaced_and_a_truncated_one_is_built_again(device: Device) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")
    device.sections["engine"] = RTX
    code, results, events = run(device, PlanDouble(drifts={"fp16": 1.0}).open)
    assert code == 0
    assert [r.not_inspected for r in results] == [None] * 8
    (fallback,) = (e for e in events if e.fault is FaultId.ENGINE_FALLBACK)
    assert fallback.detail.startswith("fp32 is in use; fp16: its results differ from the bundle's reference")
    for plan in (device.folder / "state" / "engines").glob("*/engine-0.plan"):
        os.truncate(plan, 1000)
    double = PlanDouble()
    code, _, events = run(device, double.open)
    assert code == 0
    (damaged,) = (e for e in events if e.fault is FaultId.ENGINE_DAMAGED)
    assert "1000 bytes long" in damaged.detail
    assert double.opened == ["fp16"]
    assert set.union(*(engine.threads for engine in double.made)) == {"inspect"}


def test_without_a_gpu_the_real_daemon_publishes_the_build_then_that_it_cannot_inspect(
    tmp_path: Path, broker: Broker
) -> None:
    """`procunit run` under systemd: it reports progress, extends the timeout, publishes why, and delays the retry."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")
    device = new_device(tmp_path / "device", broker.port, 1, precisions=("fp16", "fp32"))
    device.sections["engine"] = RTX
    device.write_settings()
    manager = Manager(tmp_path / "notify")
    with Subscriber(broker) as subscriber:
        process = device.start(**manager.environment, CUDA_VISIBLE_DEVICES="")
        try:
            built = manager.listen_for("STATUS=building the engine, model")
            assert "EXTEND_TIMEOUT_USEC=120000000" in built
            waits = manager.listen_for("STATUS=cannot inspect")
            assert "next try in 60 s: no engine passed the golden frames" in waits
            messages = subscriber.wait_for(
                lambda m: bool(events_of(m)) and any(b"cannot inspect" in r.payload for r in m)
            )
            assert process.poll() is None
        finally:
            code = stop(process)
            manager.close()
    assert code == 1
    (event,) = events_of(messages)
    assert (event.fault, event.severity) == (FaultId.ENGINE_UNAVAILABLE, "critical")
    assert "fp16, fp32: the CUDA driver cannot be loaded" in event.detail
    states = [json.loads(m.payload) for m in messages if m.topic == f"{ROOT}/status"]
    assert {state["state"] for state in states} <= {"starting", "offline"}
    assert len(list((device.folder / "state" / "engines").glob("*/engine-0.plan"))) == 2
    assert not any(message.startswith(("READY", "WATCHDOG")) for message in manager.received)
