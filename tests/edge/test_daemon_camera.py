"""The daemon with a scripted camera that fails, jumps its counter, and recovers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge.bundle.manifest import Manifest
from edge.contract.payloads import Event, Result
from edge.daemon import run_daemon
from edge.engine.choice import open_engine
from edge.fault_board import FaultBoard
from edge.faults import FaultId
from edge.messages import MAIN_VIEW, NotInspected, Verdict
from tests.doubles.scripted_camera import ScriptedCamera, install
from tests.support.device import PATIENT, Device, kept_in, settings_of
from tests.support.engines import Trouble
from tests.support.tiny_bundle import TINY_GEOMETRY

RunScript = Callable[..., tuple[list[Result], list[Event]]]


@pytest.fixture
def run_script(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_end: None) -> RunScript:
    """Fixture: run the daemon on the scripted camera; returns all its results and events."""
    install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(
        *steps: object, trouble: Trouble | None = None, code: int = 0, **camera: object
    ) -> tuple[list[Result], list[Event]]:
        device.sections["camera"] = {"kind": "scripted", "steps": list(steps), **camera}
        device.sections["inspection"] = PATIENT
        opened = trouble.open if trouble else open_engine
        assert run_daemon(settings_of(device), opened) == code
        return kept_in(device)

    return run


def test_a_verdict_that_would_come_too_late_is_overload(run_script: RunScript) -> None:
    results, _ = run_script(1, "late", 2, 3)
    assert [r.not_inspected for r in results] == [None, NotInspected.OVERLOAD, None]


def test_a_camera_that_fails_is_opened_again(run_script: RunScript) -> None:
    results, events = run_script(1, "break", 2, "bug", 3, "unreadable", 4, 5)
    assert [(r.seq, r.counter) for r in results] == [(n, n) for n in range(1, 6)]
    assert [r.not_inspected for r in results] == [None, None, None, NotInspected.CAMERA, None]
    assert ScriptedCamera.openings == [None, 1, 2, 4]
    assert [e.detail for e in events if e.fault is FaultId.CAMERA_FAILED] == [
        "the cable is out",
        "ZeroDivisionError: a driver's mistake",
        "the cable is out",
    ]
    assert not any(r.is_simulated for r in results)


def test_a_camera_absent_at_the_start_is_tried_again(run_script: RunScript) -> None:
    results, events = run_script(1, 2, refusals=3)
    assert [r.seq for r in results] == [1, 2]
    assert [e.fault for e in events] == [FaultId.CAMERA_FAILED, FaultId.CAMERA_ENDED]


def test_a_lost_frame_affects_only_its_own_part(run_script: RunScript) -> None:
    results, events = run_script(1, "lost", 2, 3)
    assert [r.not_inspected for r in results] == [None, NotInspected.CAMERA, None]
    assert ScriptedCamera.openings == [None]
    assert "half of the frame" in next(e.detail for e in events if e.fault is FaultId.BAD_FRAME)


def test_no_part_passes_on_fewer_views_than_were_taught(run_script: RunScript, monkeypatch: pytest.MonkeyPatch) -> None:
    geometries = {MAIN_VIEW: TINY_GEOMETRY, "left": TINY_GEOMETRY}  # no bundle has two views in its manifest yet
    monkeypatch.setattr(Manifest, "geometries", property(lambda _manifest: geometries))
    results, events = run_script(1, 2)
    text = "the camera gave no frame of view left for this trigger"
    assert [(r.not_inspected, r.why[0].text) for r in results] == [(NotInspected.CAMERA, text)] * 2
    assert [e.detail for e in events if e.fault is FaultId.BAD_FRAME] == [text]


def test_parts_missing_between_two_counter_values_get_results(run_script: RunScript) -> None:
    results, events = run_script(10, 11, 15, "break", 17)
    assert [(r.seq, r.counter) for r in results] == [(n, 9 + n) for n in range(1, 9)]
    missed = [r.counter for r in results if r.not_inspected is NotInspected.DEVICE_DOWN]
    assert missed == [12, 13, 14, 16]
    assert "3 parts before counter 15" in [e.detail for e in events if e.fault is FaultId.TRIGGERS_MISSED]


def test_parts_that_passed_while_the_device_was_down_get_results(run_script: RunScript) -> None:
    run_script(1, 2)
    ScriptedCamera.step = 0
    results, _ = run_script(5)
    assert [(r.seq, r.counter, r.not_inspected) for r in results] == [
        (1, 1, None),
        (2, 2, None),
        (3, 3, NotInspected.DEVICE_DOWN),
        (4, 4, NotInspected.DEVICE_DOWN),
        (5, 5, None),
    ]


@pytest.mark.parametrize(("second", "detail"), [(10_003, "counter jumped from 1"), (1, "went back from 1 to 1")])
def test_a_counter_that_jumps_too_far_or_back_is_an_event(run_script: RunScript, second: int, detail: str) -> None:
    results, events = run_script(1, second, second + 1)
    assert [r.counter for r in results] == [1, second, second + 1]
    assert detail in next(e.detail for e in events if e.fault is FaultId.TRIGGERS_MISSED)


def test_the_frame_of_another_part_decides_about_no_part(run_script: RunScript) -> None:
    """The frames of the others show defects: none of them may reject a part."""
    results, events = run_script(1, "stale", 2, "shifted", 3, 4)
    assert [(r.counter, r.verdict) for r in results] == [
        (1, Verdict.PASS),
        (2, Verdict.PASS),
        (3, Verdict.NOT_INSPECTED),
        (4, Verdict.REJECT),  # its own frame came with the trigger before
    ]
    assert results[2].not_inspected is NotInspected.CAMERA
    assert FaultId.FRAME_MISMATCH in [e.fault for e in events]


@pytest.mark.parametrize("hangs", ["hang", "stuck"])
def test_a_camera_that_hangs_is_opened_again_once_it_returns(
    run_script: RunScript, monkeypatch: pytest.MonkeyPatch, hangs: str
) -> None:
    monkeypatch.setattr("edge.line.capture.GRACE_S", 0.5)
    report = FaultBoard.report

    def report_and_release(board: FaultBoard, fault_id: FaultId, detail: str) -> None:
        report(board, fault_id, detail)
        if fault_id is FaultId.CAMERA_FAILED:
            ScriptedCamera.released.set()

    monkeypatch.setattr(FaultBoard, "report", report_and_release)
    results, events = run_script(1, hangs, 2, 3)
    lost = NotInspected.CAMERA if hangs == "stuck" else None
    assert [(r.counter, r.not_inspected) for r in results] == [(1, None), (2, lost), (3, None)]
    assert ScriptedCamera.openings == [None, 2 if hangs == "stuck" else 1]
    details = [e.detail for e in events if e.fault is FaultId.CAMERA_FAILED]
    assert len(details) == 1
    assert f"`{'read_frame' if hangs == 'stuck' else 'wait_arrival'}` has not returned since" in details[0]


def test_a_camera_that_hangs_for_good_ends_the_daemon_with_every_result(
    run_script: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.line.capture.GRACE_S", 0.5)
    monkeypatch.setattr("edge.line.capture.HANG_LIMIT_S", 0.5)
    try:
        results, events = run_script(1, "stuck", 2, 3, code=1)
    finally:
        ScriptedCamera.released.set()
    assert [(r.counter, r.not_inspected) for r in results] == [(1, None), (2, NotInspected.CAMERA)]
    told = {e.fault: e.detail for e in events}
    for fault_id in (FaultId.CAMERA_FAILED, FaultId.THREAD_FAILED):
        assert "`read_frame` has not returned since" in told[fault_id]


def test_a_failing_engine_never_passes_a_part(run_script: RunScript) -> None:
    results, events = run_script(1, 2, 3, 4, trouble=Trouble(fails_at=(2,), no_number_at=(3,)))
    assert [r.not_inspected for r in results] == [None, NotInspected.ENGINE, NotInspected.ENGINE, None]
    assert [r.why[0].text for r in results[1:3]] == ["the engine did not answer", "a score is not a finite number"]
    assert [e.fault for e in events].count(FaultId.ENGINE_FAILED) == 1
