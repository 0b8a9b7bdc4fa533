"""The daemon with an output: what reaches it, and that an output that fails or never returns holds up nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.contract.payloads import Event, Result
from edge.daemon import run_daemon
from edge.faults import FaultId
from edge.messages import NotInspected
from tests.doubles import scripted_camera, scripted_output
from tests.doubles.scripted_output import ScriptedOutput
from tests.support.device import PATIENT, Device, kept_in, settings_of

RunScript = Callable[..., tuple[list[Result], list[Event]]]


@pytest.fixture
def run_script(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_end: None) -> Iterator[RunScript]:
    """Fixture: run the daemon on a scripted camera with one scripted output; returns all its results and events."""
    scripted_camera.install(tmp_path)
    scripted_output.install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("edge.outputs.worker.DELIVERY_DEADLINE_S", 0.3)
    monkeypatch.setattr("edge.outputs.worker._STOP_S", 0.5)

    def run(*steps: object, **output: object) -> tuple[list[Result], list[Event]]:
        device.sections["camera"] = {"kind": "scripted", "steps": list(steps)}
        device.sections["inspection"] = PATIENT
        device.sections["outputs"] = [{"kind": "scripted", **output}]
        assert run_daemon(settings_of(device)) == 0
        return kept_in(device)

    yield run
    ScriptedOutput.released.set()


def counters_of_output() -> list[int]:
    """The counters of the parts that reached the output."""
    return [part.inspection.trigger.counter for part in ScriptedOutput.parts]


def test_every_part_at_the_line_reaches_the_output_in_order_with_its_result_on_one_thread(
    run_script: RunScript,
) -> None:
    results, _ = run_script(1, 2, "lost", 3, 6)
    assert [r.counter for r in results] == [1, 2, 3, 4, 5, 6]
    assert [r.not_inspected for r in results][3:5] == [NotInspected.DEVICE_DOWN] * 2
    assert counters_of_output() == [1, 2, 3, 6], "nothing may act on parts that have left the line"
    by_seq = {r.seq: r for r in results}
    for part in ScriptedOutput.parts:
        assert part.result == by_seq[part.inspection.trigger.seq]
        assert part.recipe.bundle.bundle_id == part.result.bundle.id
    assert ScriptedOutput.closed.is_set()
    assert ScriptedOutput.threads == {"output 1 (scripted)"}


def test_an_output_that_fails_is_a_fault_and_gets_the_next_part(run_script: RunScript) -> None:
    results, events = run_script(1, *["pause"] * 8, 2, *["pause"] * 8, 3, fails_at=[2])
    assert counters_of_output() == [1, 2, 3]
    assert all(r.not_inspected is None for r in results)
    details = [e.detail for e in events if e.fault is FaultId.OUTPUT_FAILED]
    assert details == ["output 1 (scripted), part 2: the gate does not answer"]


def test_an_output_that_never_returns_holds_up_no_part_and_is_a_fault_within_its_deadline(
    run_script: RunScript,
) -> None:
    results, events = run_script(*range(1, 41), *["pause"] * 8, hangs_at=3)
    assert [r.counter for r in results] == list(range(1, 41))
    assert all(r.not_inspected is None for r in results)
    assert counters_of_output() == [1, 2, 3]
    details = {e.fault: e.detail for e in events}
    assert "output 1 (scripted) has taken" in details[FaultId.OUTPUT_FAILED]
    assert FaultId.OUTPUT_BEHIND in details


def test_a_part_that_waited_too_long_for_the_output_is_not_delivered_to_it(
    run_script: RunScript, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PATIENT, "deadline_s", 2.0)
    results, events = run_script("late", 1, 2)
    assert [r.not_inspected for r in results] == [NotInspected.OVERLOAD, None]
    assert counters_of_output() == [2]
    (detail,) = [e.detail for e in events if e.fault is FaultId.OUTPUT_FAILED]
    assert "part 1: it was 3600" in detail
    assert detail.endswith("too late")
