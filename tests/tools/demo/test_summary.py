"""The figures of the summary, from results made by the product's own payload code."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edge.bundle.manifest import Budget
from edge.contract.payloads import (
    BundleRef,
    ProcessingTimes,
    Result,
    ResultEvaluation,
    ResultState,
    ScoreSet,
    WhyPayload,
)
from edge.messages import Verdict
from tools.demo.report import Report, print_report, write_report
from tools.demo.summary import (
    Delivery,
    delivery_of,
    distinct_results,
    false_alarms,
    first_reason,
    rows_by_truth,
    stage_percentiles,
)

TRUTHS = {1: "good", 2: "scratch", 3: "good", 4: "dent", 5: "good"}
VERDICTS = {1: Verdict.PASS, 3: Verdict.REVIEW, 5: Verdict.REJECT}


def result(
    counter: int, verdict: Verdict = Verdict.PASS, *, named: str | None = None, seq: int | None = None
) -> Result:
    why = WhyPayload(
        scorer="head" if named else "anomaly", defect_type=named, score=0.9, threshold=0.5, authority="review", text="x"
    )
    times = ProcessingTimes(
        queue_ms=counter, preprocess_ms=1, engine_ms=10 * counter, decide_ms=0.1, inspect_ms=10 * counter + 1.1
    )
    return Result(
        result_id=f"e-{seq or counter}",
        device="edge-1",
        epoch="e",
        seq=seq or counter,
        counter=counter,
        frame_id=str(counter),
        part_id=f"p{counter}",
        trigger_time="2026-01-01T00:00:00.000Z",
        creation_time="2026-01-01T00:00:00.100Z",
        processing_times=times,
        result_state=ResultState.COMPLETED,
        result_evaluation=ResultEvaluation.OK,
        verdict=verdict,
        not_inspected=None,
        is_simulated=True,
        review_action=None,
        audit=False,
        why=() if verdict is Verdict.PASS else (why,),
        scores=None,
        thresholds=ScoreSet(types={}, anomaly=None),
        authority={},
        bundle=BundleRef(id="b", product="p", version=1),
        image=None,
    )


def test_one_result_per_trigger_holds_and_repeats_are_allowed() -> None:
    received = [result(1), result(2), result(2), result(3)]
    delivery = delivery_of(received, 3)
    assert delivery == Delivery(3, 4, 3, 1, (), (), (), ())
    assert delivery.holds
    assert distinct_results(received) == [result(1), result(2), result(3)]


@pytest.mark.parametrize(
    ("received", "triggers", "broken"),
    [
        ([result(1), result(3)], 3, {"missing": (2,)}),
        ([result(1), result(2), result(2, seq=9)], 2, {"doubled": (2,)}),
        ([result(1), result(1, Verdict.REJECT)], 1, {"conflicting": ("e-1",)}),
        ([result(1), result(2)], 1, {"strange": (2,)}),
        ([], 1, {"missing": (1,)}),
    ],
)
def test_a_broken_promise_is_found(received: list[Result], triggers: int, broken: dict[str, tuple[int, ...]]) -> None:
    delivery = delivery_of(received, triggers)
    found = {name: getattr(delivery, name) for name in ("missing", "doubled", "conflicting", "strange")}
    assert {name: values for name, values in found.items() if values} == broken
    assert not delivery.holds


@given(st.lists(st.integers(1, 12), max_size=40), st.integers(1, 12))
def test_the_promise_holds_exactly_if_every_trigger_has_a_result(counters: list[int], triggers: int) -> None:
    delivery = delivery_of([result(counter) for counter in counters], triggers)
    assert delivery.holds == (set(counters) == set(range(1, triggers + 1)))
    assert delivery.results + delivery.repeats == delivery.messages == len(counters)


def test_verdicts_and_names_are_counted_by_truth() -> None:
    received = [
        result(1),
        result(2, Verdict.REJECT, named="scratch"),
        result(3, Verdict.REVIEW),
        result(4, Verdict.REVIEW, named="scratch"),
        result(5, Verdict.NOT_INSPECTED),
    ]
    good, dent, scratch = rows_by_truth(received, TRUTHS)
    assert (good.truth, good.photographs, good.is_good) == ("good", 3, True)
    assert good.verdicts == {Verdict.PASS: 1, Verdict.REVIEW: 1, Verdict.NOT_INSPECTED: 1}
    assert good.called == {"anomaly": 1}
    assert (dent.truth, dent.verdicts, dent.called) == ("dent", {Verdict.REVIEW: 1}, {"scratch": 1})
    assert (scratch.truth, scratch.verdicts, scratch.called) == ("scratch", {Verdict.REJECT: 1}, {"scratch": 1})


def test_the_first_reason_is_the_type_farthest_above_its_threshold() -> None:
    def reason(name: str | None, score: float, threshold: float) -> WhyPayload:
        scorer: Literal["head", "anomaly"] = "head" if name else "anomaly"
        return WhyPayload(
            scorer=scorer, defect_type=name, score=score, threshold=threshold, authority="review", text="x"
        )

    flagged = result(1, Verdict.REVIEW, named="x")
    why = (reason("dent", 0.97, 0.9), reason("scratch", 0.9, 0.1), reason(None, 99.0, 1.0))
    assert first_reason(flagged.model_copy(update={"why": why})) == "scratch"
    assert first_reason(flagged.model_copy(update={"why": why[2:]})) == "anomaly"
    assert first_reason(result(1)) is None
    assert first_reason(result(1, Verdict.NOT_INSPECTED)) is None


def test_false_alarms_leave_out_what_was_not_inspected() -> None:
    alarms = false_alarms([result(1), result(3, Verdict.REVIEW), result(5, Verdict.NOT_INSPECTED)], TRUTHS)
    assert alarms is not None
    assert (alarms.good_parts, alarms.flagged_parts) == (2, 1)
    assert alarms.low == pytest.approx(0.0126, abs=1e-4)  # Clopper and Pearson, 1 of 2, 95 %
    assert alarms.high == pytest.approx(0.9874, abs=1e-4)


def test_a_good_part_flagged_in_one_of_its_photographs_is_one_false_alarm() -> None:
    one_part = [result(counter, verdict).model_copy(update={"part_id": "p"}) for counter, verdict in VERDICTS.items()]
    alarms = false_alarms(one_part, TRUTHS)
    assert alarms is not None
    assert (alarms.good_parts, alarms.flagged_parts) == (1, 1)


def test_without_good_parts_there_is_no_false_alarm_rate() -> None:
    assert false_alarms([result(2)], TRUTHS) is None
    assert false_alarms([result(1, Verdict.NOT_INSPECTED)], TRUTHS) is None


def test_latency_is_by_stage_and_without_uninspected_parts() -> None:
    received = [result(counter) for counter in range(1, 102)] + [result(5000, Verdict.NOT_INSPECTED)]
    latency = stage_percentiles(received)
    assert latency["engine"].p50 == 510
    assert latency["engine"].p95 == 960
    assert latency["frame to verdict"].p99 == pytest.approx(1001.1)
    assert stage_percentiles([result(1, Verdict.NOT_INSPECTED)]) == {}


def report(received: list[Result], triggers: int, budget: Budget | None) -> Report:
    results = distinct_results(received)
    return Report(
        delivery=delivery_of(received, triggers),
        triggers_from="rows of line.csv",
        truths=rows_by_truth(results, TRUTHS),
        alarms=false_alarms(results, TRUTHS),
        budget=budget,
        latency=stage_percentiles(received),
        paths={"bundle": Path("work/bundle")},
    )


def printed(made: Report) -> str:
    console = Console(file=io.StringIO(), width=120)
    print_report(made, console)
    assert isinstance(console.file, io.StringIO)
    return " ".join(console.file.getvalue().split())


def test_the_summary_reports_a_kept_promise() -> None:
    budget = Budget(false_alarm_rate=0.5, confidence=0.9, good_parts=40, flagged_parts=1)
    text = printed(report([result(1), result(2, Verdict.REVIEW, named="scratch"), result(3)], 3, budget))
    assert "exactly one result for every trigger" in text
    assert "0 of 2 good parts = 0.0%" in text
    assert "within the budget of at most 50.0% (with 90% confidence)" in text
    assert "work/bundle" in text


def test_the_summary_reports_a_broken_promise_and_a_missing_budget() -> None:
    text = printed(report([result(1), result(1, Verdict.REJECT)], 3, None))
    assert "NOT EQUAL" in text
    assert "missing: 2, such as 2, 3" in text
    assert "conflicting: 1, such as e-1" in text
    assert "exactly one result" not in text
    assert "has no false-alarm budget" in text


def test_too_many_false_alarms_are_reported() -> None:
    budget = Budget(false_alarm_rate=0.01, confidence=0.9, good_parts=300, flagged_parts=1)
    flagged = [result(counter, Verdict.REVIEW) for counter in (1, 3, 5)]
    assert "above the budget" in printed(report(flagged, 5, budget))


def test_the_figures_are_written_as_json(tmp_path: Path) -> None:
    write_report(report([result(1), result(2, Verdict.REJECT, named="scratch")], 2, None), tmp_path / "summary.json")
    figures = json.loads((tmp_path / "summary.json").read_text())
    assert figures["delivery"]["holds"] is True
    assert figures["truths"]["scratch"] == {"photographs": 1, "verdicts": {"reject": 1}, "called": {"scratch": 1}}
    assert figures["latency_ms"]["engine"]["p50"] == 15
