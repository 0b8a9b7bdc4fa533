"""Faults: one log line and one event at the beginning, one log line at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.contract.payloads import Event
from edge.fault_board import FaultBoard
from edge.faults import FaultId
from edge.outbox.outbox import Outbox


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with Outbox(tmp_path / "outbox.db") as outbox:
        yield outbox


def events(outbox: Outbox) -> list[Event]:
    assert outbox.flush(40)
    return [Event.model_validate_json(m.payload) for m in outbox.unacknowledged(0, 100)]


def test_a_lasting_fault_makes_one_event(outbox: Outbox, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    board = FaultBoard(outbox, "edge-1")
    for attempt in range(3):
        board.report(FaultId.CAMERA_FAILED, f"attempt {attempt}")
    assert board.active() == (FaultId.CAMERA_FAILED,)
    board.end(FaultId.CAMERA_FAILED)
    board.end(FaultId.CAMERA_FAILED)
    assert board.active() == ()
    board.report(FaultId.CAMERA_FAILED, "again")
    assert [(e.device, e.epoch, e.detail) for e in events(outbox)] == [
        ("edge-1", outbox.epoch, "attempt 0"),
        ("edge-1", outbox.epoch, "again"),
    ]
    assert [r.getMessage().partition(" ")[2] for r in caplog.records][1] == "over"
    assert FaultId.CAMERA_FAILED.fault.action in caplog.records[0].getMessage()
    assert caplog.records[0].levelno == logging.ERROR


def test_faults_of_single_parts_end_after_a_quiet_time_lasting_ones_do_not(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = FaultBoard(outbox, "edge-1")
    board.report(FaultId.OVERLOAD, "a part")
    board.report(FaultId.CAMERA_FAILED, "no answer")
    board.end_quiet()
    assert board.active() == (FaultId.OVERLOAD, FaultId.CAMERA_FAILED)
    monkeypatch.setattr("edge.fault_board.QUIET_S", -1.0)
    board.end_quiet()
    assert board.active() == (FaultId.CAMERA_FAILED,)
