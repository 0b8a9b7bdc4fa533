"""The daemon stops in order whatever ends it, says why, and keeps its promises while the disk takes nothing."""

from __future__ import annotations

import logging
import re
import signal
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from edge.daemon import run_daemon
from edge.faults import FaultId
from edge.frames import image as frame_image
from edge.line.inspector import Inspector
from edge.line.supervisor import Supervisor
from edge.line.trigger_queue import TriggerQueue
from edge.messages import NotInspected, PixelArray, Trigger
from edge.mqtt.publisher import Publisher
from edge.outbox.outbox import Outbox
from edge.state_dir import OUTBOX_FILE
from tests.support.device import PATIENT, Device, kept_in, settings_of

THREADS = {"capture", "inspect", "publisher", "commands", "outbox", "frames"}


@pytest.mark.parametrize("where", [(Supervisor, "run"), (Supervisor, "wait_for_engine"), (Publisher, "start")])
def test_an_error_of_any_kind_runs_the_stop_and_is_reported(
    device: Device, quick_end: None, monkeypatch: pytest.MonkeyPatch, where: tuple[type, str]
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    monkeypatch.setattr(*where, fails)
    with pytest.raises(ZeroDivisionError):
        run_daemon(settings_of(device))
    assert not THREADS & {thread.name for thread in threading.enumerate()}
    results, events = kept_in(device)
    assert [r.seq for r in results] == list(range(1, len(results) + 1))
    assert [e.detail for e in events if e.fault is FaultId.THREAD_FAILED] == ["main: ZeroDivisionError: a mistake"]


def test_an_error_of_the_outbox_in_the_capture_thread_is_no_camera_fault(
    device: Device, quick_end: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Outbox.open_trigger

    def fails(outbox: Outbox, trigger: Trigger) -> None:
        if trigger.seq == 5:
            raise ZeroDivisionError("a mistake in the outbox")
        journal(outbox, trigger)

    monkeypatch.setattr(Outbox, "open_trigger", fails)
    assert run_daemon(settings_of(device)) == 1
    results, events = kept_in(device)
    assert [r.seq for r in results] == [1, 2, 3, 4]
    assert [(e.fault, e.detail) for e in events] == [
        (FaultId.THREAD_FAILED, "capture: ZeroDivisionError: a mistake in the outbox")
    ]


def test_an_outbox_that_is_damaged_while_parts_come_ends_the_daemon_and_is_no_camera_fault(
    device: Device, quick_end: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Outbox.open_trigger

    def damaged(outbox: Outbox, trigger: Trigger) -> None:
        if trigger.seq == 5:
            outbox._writer.end_damaged(sqlite3.DatabaseError("database disk image is malformed"))
        journal(outbox, trigger)

    monkeypatch.setattr(Outbox, "open_trigger", damaged)
    with caplog.at_level(logging.INFO):
        assert run_daemon(settings_of(device)) == 1
    reported = [record.getMessage() for record in caplog.records if record.name == "edge.fault_board"]
    assert any(text.startswith("outbox_failed: ") and "malformed" in text for text in reported)
    assert not any("camera_failed" in text for text in reported)
    assert "its last events are lost" in caplog.records[-1].getMessage()


def test_an_inspection_that_fails_at_the_very_end_of_a_replay_is_a_failure(
    device: Device, quick_end: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inspect thread fails at the last part, while the camera has ended and the queue is being closed."""
    asked = threading.Event()
    inspect, close = Inspector._inspect_under_rules, TriggerQueue.close

    def fails_last(inspector: Inspector, trigger: Trigger) -> None:
        if trigger.seq == 20:
            asked.wait(10)
            raise MemoryError
        inspect(inspector, trigger)

    def close_late(trigger_queue: TriggerQueue) -> None:
        asked.set()
        deadline_s = time.monotonic() + 10
        while "inspect" in {thread.name for thread in threading.enumerate()} and time.monotonic() < deadline_s:
            time.sleep(0.01)
        close(trigger_queue)

    monkeypatch.setattr(Inspector, "_inspect_under_rules", fails_last)
    monkeypatch.setattr(TriggerQueue, "close", close_late)
    assert run_daemon(settings_of(device)) == 1


def test_while_too_much_waits_for_the_disk_no_part_is_taken_and_each_has_its_result_afterwards(
    device: Device, quick_end: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another program holds the database's lock, so that every write fails for some seconds."""
    monkeypatch.setattr("edge.outbox.writer.MAX_WAITING", 6)
    monkeypatch.setattr("edge.outbox.writer._RETRY_S", 0.05)
    monkeypatch.setattr("edge.outbox.database._BUSY_TIMEOUT_S", 0.1)
    device.camera["parts_per_min"] = 240
    device.sections["inspection"] = PATIENT

    def hold_lock(path: Path) -> None:
        deadline_s = time.monotonic() + 15
        while "inspecting; " not in caplog.text and time.monotonic() < deadline_s:
            time.sleep(0.01)
        with sqlite3.connect(path, timeout=10, isolation_level=None) as db:
            db.execute("BEGIN IMMEDIATE")
            while "no part is inspected until" not in caplog.text and time.monotonic() < deadline_s:
                time.sleep(0.01)
            time.sleep(1.0)  # some more parts pass
            db.execute("ROLLBACK")

    holder = threading.Thread(target=hold_lock, args=(device.folder / "state" / OUTBOX_FILE,))
    holder.start()
    with caplog.at_level(logging.INFO):
        assert run_daemon(settings_of(device)) == 0
    holder.join()
    results, events = kept_in(device)
    assert [r.counter for r in results] == [r.seq for r in results] == list(range(1, 21))
    reasons = Counter(r.not_inspected for r in results)
    assert reasons[NotInspected.DEVICE_DOWN] >= 2
    assert set(reasons) == {None, NotInspected.DEVICE_DOWN}
    assert "parts are inspected again" in caplog.text
    assert FaultId.OUTBOX_FAILED in [e.fault for e in events]


def test_a_disk_that_hangs_is_told_and_holds_up_neither_the_inspection_nor_the_stop(
    device: Device, quick_end: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """From the first part on no commit returns, until the daemon has stopped."""
    monkeypatch.setattr("edge.outbox.writer.COMMIT_DEADLINE_S", 0.3)
    monkeypatch.setattr("edge.mqtt.publisher.COMMIT_S", 0.3)
    monkeypatch.setattr(Outbox, "stop_s", 0.3)
    device.camera |= {"parts_per_min": 600, "at_end": "hold"}
    device.sections["inspection"] = PATIENT
    inspecting, answers = threading.Event(), threading.Event()
    start, inspect = Outbox.start, Inspector._inspect_under_rules

    def hang(sql: str) -> None:
        if sql == "COMMIT" and inspecting.is_set():
            answers.wait()

    def start_hanging(outbox: Outbox) -> None:
        outbox._database.writer.set_trace_callback(hang)
        start(outbox)

    def inspect_and_stop(inspector: Inspector, trigger: Trigger) -> None:
        inspecting.set()
        inspect(inspector, trigger)
        if trigger.seq == 20:
            stopper.start()

    def stop_once_told() -> None:
        deadline_s = time.monotonic() + 20
        while "has not answered for" not in caplog.text and time.monotonic() < deadline_s:
            time.sleep(0.01)
        signal.raise_signal(signal.SIGTERM)

    stopper = threading.Thread(target=stop_once_told)
    monkeypatch.setattr(Outbox, "start", start_hanging)
    monkeypatch.setattr(Inspector, "_inspect_under_rules", inspect_and_stop)
    with caplog.at_level(logging.INFO):
        assert run_daemon(settings_of(device)) == 1
    stopper.join()
    answers.set()
    messages = [record.getMessage() for record in caplog.records]
    assert any(re.match(r"outbox_failed: .*\(the disk has not answered for \d+ s\)", text) for text in messages)
    assert "results cannot be written to the disk" in messages
    assert "stopped after 20 parts" in messages[-1]
    assert re.search(r"\d+ verdicts could not be stored and are lost", messages[-1])


def test_frames_that_the_disk_is_too_slow_for_are_a_fault_and_counted(
    device: Device, quick_end: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = frame_image.png_from_pixels

    def write_slowly(pixels: PixelArray, record: dict[str, object]) -> bytes:
        time.sleep(0.3)
        return write(pixels, record)

    monkeypatch.setattr("edge.frames.store.png_from_pixels", write_slowly)
    monkeypatch.setattr("edge.frames.store.MAX_WAITING_BYTES", 1)
    device.camera["parts_per_min"] = 600
    device.sections["inspection"] = PATIENT
    with caplog.at_level(logging.INFO):
        assert run_daemon(settings_of(device)) == 0
    _, events = kept_in(device)
    dropped = [e for e in events if e.fault is FaultId.FRAMES_DROPPED]
    assert len(dropped) == 1
    assert "since the start" in dropped[0].detail
    assert "frames were not kept, as the disk was too slow" in caplog.text
