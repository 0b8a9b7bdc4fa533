"""The whole daemon: real bundle, engine, outbox and broker; cameras and engines that fail are test doubles."""

from __future__ import annotations

import logging
import re
import signal
import threading
import time
from collections import Counter

import pytest

from edge.daemon import run_daemon
from edge.errors import ProcunitError
from edge.faults import FaultId
from edge.messages import NotInspected, Verdict
from edge.state_dir import OUTBOX_FILE
from tests.support.broker import Broker, Subscriber
from tests.support.device import PATIENT, ROOT, Device, distinct, events_of, kept_in, results_of, settings_of, stop
from tests.support.engines import Trouble


def test_a_replay_gives_every_part_its_verdict_in_order_and_ends(device: Device, broker: Broker) -> None:
    device.port = broker.port
    device.write_settings()
    with Subscriber(broker) as subscriber:
        assert device.run() == 0
        messages = subscriber.wait_for(lambda m: any(b'"stopped"' in r.payload for r in m))
    results = results_of(messages)
    assert [r.seq for r in results] == [r.counter for r in results] == list(range(1, 21))
    assert Counter(r.verdict for r in results) == {Verdict.PASS: 16, Verdict.REJECT: 4}
    assert all(r.is_simulated and r.processing_times.engine_ms > 0 for r in results)
    images = [m.topic for m in messages if "/frame/" in m.topic]
    assert images == [t for r in results if r.image for t in (r.image.topic, r.image.heatmap_topic)]
    states = [m.payload for m in messages if m.topic == f"{ROOT}/status"]
    assert b'"stopped"' in states[-1]
    assert any(b'"running"' in state for state in states)
    assert [e.fault for e in events_of(messages)] == [FaultId.CAMERA_ENDED]
    lines = device.log_text.splitlines()
    assert len(lines) < 12
    for text in ("bundle tiny version 1", "golden gate", f"results go to {ROOT}/result", "all messages were sent"):
        assert any(text in line for line in lines)


def test_without_a_broker_it_runs_on_and_delivers_later(device: Device, broker: Broker) -> None:
    broker.stop()
    device.port = broker.port
    device.camera["at_end"] = "hold"
    device.write_settings()
    process = device.start()
    try:
        device.wait_for_log("broker_unreachable")
        broker.start()
        with Subscriber(broker) as subscriber:
            messages = subscriber.wait_for(lambda m: len(distinct(results_of(m))) == 20, 15)
        assert [r.seq for r in distinct(results_of(messages))] == list(range(1, 21))
        device.wait_for_log("broker_unreachable: over")
    finally:
        code = stop(process)
    assert code == 0


def test_unsent_results_are_kept_for_the_next_start(device: Device, quick_end: None) -> None:
    assert run_daemon(settings_of(device)) == 0
    results, _ = kept_in(device)
    assert [r.seq for r in results] == list(range(1, 21))


def test_the_next_start_continues_after_the_last_part(device: Device, quick_end: None) -> None:
    assert run_daemon(settings_of(device)) == 0
    for name in ("98.png", "99.png"):
        (device.photos / name).write_bytes((device.photos / "00000.png").read_bytes())
    assert run_daemon(settings_of(device)) == 0
    results, _ = kept_in(device)
    assert [(r.seq, r.counter) for r in results] == [(n, n) for n in range(1, 23)]
    assert len({r.epoch for r in results}) == 1


def test_two_daemons_cannot_share_a_state_directory(device: Device) -> None:
    device.camera["at_end"] = "hold"
    settings = settings_of(device)
    first = device.start()
    try:
        device.wait_for_log("inspecting")
        with pytest.raises(ProcunitError, match="another process uses this outbox"):
            run_daemon(settings)
        assert first.poll() is None
    finally:
        stop(first)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_daemon_in_order(device: Device, broker: Broker, number: signal.Signals) -> None:
    device.port = broker.port
    device.camera |= {"parts_per_min": 6000, "at_end": "hold"}
    device.sections["inspection"] = PATIENT
    device.write_settings()
    with Subscriber(broker) as subscriber:
        process = device.start()
        try:
            subscriber.wait_for(lambda m: len(results_of(m)) >= 5)
            process.send_signal(number)
            assert process.wait(60) == 0
        finally:
            process.kill()
            process.wait()
        messages = subscriber.wait_for(lambda m: any(b'"stopped"' in r.payload for r in m))
    seqs = [r.seq for r in results_of(messages)]
    assert seqs == list(range(1, len(seqs) + 1))
    assert all(r.verdict is not Verdict.NOT_INSPECTED for r in results_of(messages))
    assert kept_in(device) == ([], [])


def test_an_unreadable_photograph_affects_only_its_own_part(device: Device, quick_end: None) -> None:
    (device.photos / "00002.png").write_bytes(b"no image")
    assert run_daemon(settings_of(device)) == 0
    results, events = kept_in(device)
    assert [r.seq for r in results] == list(range(1, 21))
    assert {r.seq: r.not_inspected for r in results if r.not_inspected} == {3: NotInspected.CAMERA}
    assert FaultId.BAD_FRAME in [e.fault for e in events]
    assert "00002.png" in next(e.detail for e in events if e.fault is FaultId.BAD_FRAME)


def test_a_line_that_is_too_fast_gets_overload_results_in_order(device: Device, quick_end: None) -> None:
    device.camera["parts_per_min"] = 6000
    device.sections["inspection"] = {"frame_slots": 1}
    assert run_daemon(settings_of(device), Trouble(slow_s=0.05).open) == 0
    results, events = kept_in(device)
    assert [r.seq for r in results] == list(range(1, 21))
    reasons = Counter(r.not_inspected for r in results)
    assert set(reasons) == {None, NotInspected.OVERLOAD}
    assert reasons[NotInspected.OVERLOAD] >= 5
    assert [e.fault for e in events].count(FaultId.OVERLOAD) == 1


def test_a_replay_at_full_speed_waits_for_the_inspection(device: Device, quick_end: None) -> None:
    device.sections["inspection"] = {"frame_slots": 1, "deadline_s": 0.05}
    assert run_daemon(settings_of(device), Trouble(slow_s=0.06).open) == 0
    results, _ = kept_in(device)
    assert [r.not_inspected for r in results] == [None] * 20


def test_when_the_inspect_thread_fails_the_daemon_exits_and_the_part_is_reported(
    device: Device, quick_end: None
) -> None:
    device.camera["parts_per_min"] = 6000
    device.sections["inspection"] = PATIENT
    assert run_daemon(settings_of(device), Trouble(dies_at=(3,)).open) == 1
    assert run_daemon(settings_of(device)) == 0
    results, events = kept_in(device)
    assert [r.seq for r in results] == list(range(1, 21))
    assert results[2].not_inspected is NotInspected.RESTART
    faults = [e.fault for e in events]
    assert faults[0] is FaultId.THREAD_FAILED
    assert FaultId.RESTARTED in faults
    assert "MemoryError" in events[0].detail


def test_a_changed_bundle_is_refused_and_reported(device: Device) -> None:
    bank = device.folder / "bundle" / "bank.safetensors"
    data = bytearray(bank.read_bytes())
    data[-1] ^= 1
    bank.write_bytes(data)
    with pytest.raises(ProcunitError, match=r"bank\.safetensors.*sha256 differs"):
        run_daemon(settings_of(device))
    results, events = kept_in(device)
    assert results == []
    assert [e.fault for e in events] == [FaultId.BUNDLE_REFUSED]


def test_an_engine_that_fails_the_golden_gate_inspects_nothing(device: Device, quick_end: None) -> None:
    trouble = Trouble(drift=1.0)
    assert run_daemon(settings_of(device), trouble.open) == 1
    results, events = kept_in(device)
    assert results == []
    assert [e.fault for e in events] == [FaultId.ENGINE_UNAVAILABLE]
    assert re.search(r"fp32: .*golden frames fail, the worst golden/.*spreads", events[0].detail)
    assert [engine.closed for engine in trouble.made] == [True]


def test_a_damaged_outbox_is_set_aside_and_reported(device: Device, quick_end: None) -> None:
    assert run_daemon(settings_of(device)) == 0
    first, _ = kept_in(device)
    (device.folder / "state" / OUTBOX_FILE).write_bytes(b"\xff" * 8192)
    assert run_daemon(settings_of(device)) == 0
    results, events = kept_in(device)
    assert [r.seq for r in results] == list(range(1, 21))
    assert results[0].epoch != first[0].epoch
    assert events[0].fault is FaultId.OUTBOX_SET_ASIDE
    assert "damaged" in events[0].detail


def test_a_nearly_full_disk_is_reported_and_results_continue(
    device: Device, quick_end: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.camera["parts_per_min"] = 480
    fills = threading.Timer(1.0, monkeypatch.setattr, ("edge.outbox.disk_space.LOW_DISK_BYTES", 1 << 60))
    fills.start()
    assert run_daemon(settings_of(device)) == 0
    results, events = kept_in(device)
    assert [r.seq for r in results] == list(range(1, 21))
    assert [e.fault for e in events].count(FaultId.DISK_LOW) == 1


def test_once_the_rate_is_known_the_retention_is_logged(
    device: Device, quick_end: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("edge.line.metrics.RATE_KNOWN_S", 0.6)
    device.camera["parts_per_min"] = 1200
    with caplog.at_level(logging.INFO):
        assert run_daemon(settings_of(device)) == 0
    (message,) = [record.getMessage() for record in caplog.records if "for a replay" in record.getMessage()]
    assert re.fullmatch(r"at \S+ parts per second, acknowledged results are kept for \d\.\d days for a replay", message)


def test_a_faulty_list_of_photographs_stops_the_start(device: Device) -> None:
    (device.folder / "line.csv").write_text("picture\n")
    device.camera["path"] = "line.csv"
    started_s = time.monotonic()
    with pytest.raises(ProcunitError, match="needs the columns file and part_id"):
        run_daemon(settings_of(device))
    assert time.monotonic() - started_s < 5
