"""Figures by part and by image from photographs with given scores and verdicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from calibration.figures import InspectedPhoto, Scored, figures_from_inspected, image_of, part_of
from edge.messages import Verdict
from training.data.dataset import Photo


def _judged(
    label: str, part: str, score: float, verdict: Verdict, *, anomaly: float | None = None, scored: bool = True
) -> InspectedPhoto:
    file = f"{label}/{part}-{score}.png"
    photo = Photo(Path(file), file, "", part, label, None)
    distance = score if anomaly is None else anomaly
    return InspectedPhoto(photo, verdict, 1.0, Scored(photo, 100, 100, (score,), distance, score) if scored else None)


_FOLDER = [
    _judged("good", "g1", 0.1, Verdict.PASS),
    _judged("good", "g1", 0.6, Verdict.REVIEW),
    _judged("good", "g2", 0.2, Verdict.PASS),
    _judged("scratch", "s1", 0.9, Verdict.REJECT),
    _judged("scratch", "s1", 0.3, Verdict.PASS),
    _judged("scratch", "s2", 0.25, Verdict.PASS),
]


def _auc(folder: list[InspectedPhoto], *, by_part: bool) -> float | None:
    unit_of = part_of if by_part else image_of
    return figures_from_inspected(folder, ("scratch",), has_anomaly=True, unit_of=unit_of).types["scratch"].head_auc


def test_a_parts_score_is_the_mean_of_its_photographs() -> None:
    # parts: good 0.35 and 0.2, scratch 0.6 and 0.25; images: good 0.1, 0.6, 0.2, scratch 0.9, 0.3, 0.25
    assert _auc(_FOLDER, by_part=True) == pytest.approx(3 / 4)
    assert _auc(_FOLDER, by_part=False) == pytest.approx(7 / 9)


def test_a_parts_verdict_is_the_severest_of_its_photographs() -> None:
    by_part = figures_from_inspected(_FOLDER, ("scratch",), has_anomaly=True, unit_of=part_of).verdicts
    by_image = figures_from_inspected(_FOLDER, ("scratch",), has_anomaly=True, unit_of=image_of).verdicts
    assert by_part["good"] == {"pass": 1, "reject": 0, "review": 1, "not_inspected": 0}
    assert by_part["scratch"] == {"pass": 1, "reject": 1, "review": 0, "not_inspected": 0}
    assert sum(by_image["good"].values()) == sum(by_image["scratch"].values()) == 3


def test_a_part_that_shows_two_types_counts_for_both_and_once_among_all_defects() -> None:
    folder = [
        *_FOLDER,
        _judged("dent", "s1", 0.15, Verdict.REVIEW, anomaly=0.0),
        _judged("dent", "d1", 0.95, Verdict.REVIEW),
    ]
    figures = figures_from_inspected(folder, ("scratch",), has_anomaly=True, unit_of=part_of)
    assert figures.types["scratch"].parts == 2
    assert (figures.types["dent"].parts, figures.types["dent"].images) == (2, 2)
    assert figures.types["dent"].anomaly_auc == pytest.approx(0.5)
    # all defects, by part: s1 (0.9 + 0.3 + 0.0) / 3 = 0.4, s2 0.25, d1 0.95 against good 0.35 and 0.2
    assert figures.anomaly.auc == pytest.approx(5 / 6)


def test_a_type_unknown_to_the_bundle_has_only_an_anomaly_figure() -> None:
    figures = figures_from_inspected(_FOLDER, (), has_anomaly=True, unit_of=part_of).types["scratch"]
    assert figures.head_auc is None
    assert figures.head_auc_ci95 is None
    assert figures.anomaly_auc is not None


def test_without_good_parts_nothing_is_compared() -> None:
    figures = figures_from_inspected(_FOLDER[3:], ("scratch",), has_anomaly=True, unit_of=part_of)
    assert figures.anomaly.auc is None
    assert figures.types["scratch"].head_auc is None
    assert figures.at_false_alarm["0.01"].escape_rate is None
    assert figures.size_only_auc is None


def test_without_an_anomaly_limit_there_is_no_anomaly_figure() -> None:
    figures = figures_from_inspected(_FOLDER, ("scratch",), has_anomaly=False, unit_of=part_of)
    assert figures.anomaly.auc is None
    assert figures.types["scratch"].anomaly_auc is None
    assert figures.types["scratch"].head_auc is not None


def test_a_photograph_without_scores_counts_in_the_verdicts_alone() -> None:
    unscored = _judged("scratch", "s3", 0.0, Verdict.NOT_INSPECTED, scored=False)
    figures = figures_from_inspected([*_FOLDER, unscored], ("scratch",), has_anomaly=True, unit_of=part_of)
    assert figures.verdicts["scratch"]["not_inspected"] == 1
    assert figures.types["scratch"].images == 4
    assert figures.types["scratch"].head_auc == _auc(_FOLDER, by_part=True)
