"""A run's figures and their words: operating points equal scikit-learn's, and the sentences fit the figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from edge.bundle.manifest import GOOD
from tests.training.report.test_run_report import findings_of, photo, photos_of, record
from training.findings import CurvePoint
from training.part_scores import operating_point, roc_of_type, scores_of_type
from training.report.words import (
    agreement_in_words,
    learning_in_words,
    result_in_words,
    result_of_type,
    shortcomings,
)
from training.validation import PartAuc


@given(
    own=st.lists(st.integers(-5, 5), min_size=1, max_size=30),
    others=st.lists(st.integers(-5, 5), min_size=1, max_size=60),
)
@settings(deadline=None)
def test_operating_points_are_scikit_learn_s_and_flag_no_more_than_they_may(own: list[int], others: list[int]) -> None:
    labels = ["crack"] * len(own) + [GOOD] * len(others)
    photos = [photo(label, f"P{i // 2}", i, Path()) for i, label in enumerate(labels)]
    findings = replace(findings_of(photos, ("crack",)), logits=np.array([[float(x)] for x in (*own, *others)]))
    scores = scores_of_type(findings, "crack")
    means: dict[tuple[str, str], list[float]] = {}
    for p, logit in zip(photos, findings.logits[:, 0], strict=True):
        means.setdefault((p.label, p.part_id), []).append(logit)
    wanted = roc_curve(
        [label == "crack" for label, _ in means], [np.mean(x) for x in means.values()], drop_intermediate=False
    )
    roc = roc_of_type(scores)
    assert roc is not None
    for found, expected in zip((roc.flagged, roc.caught, roc.thresholds), wanted, strict=True):
        np.testing.assert_allclose(found, expected)
    for rate in (0.05, 0.01):
        point = operating_point(scores, roc, rate)
        assert point.flagged == scores.flagged(GOOD, point.threshold) <= rate * point.others
        assert point.caught == scores.flagged("crack", point.threshold)
        low, high = point.interval
        assert low <= point.caught / point.own <= high
        assert point.is_measured == (rate * point.others >= 1)


def test_parts_whose_photographs_contradict_each_other_are_named() -> None:
    photos = photos_of(Path(), ("crack",), parts=3, good_parts=2)
    logits = [[-3.0]] * 4 + [[5.0], [-4.0], [4.0], [4.0], [3.0], [3.0]]
    findings = replace(findings_of(photos, ("crack",)), logits=np.array(logits))
    result = result_of_type(record(photos, ("crack",)), findings, "crack")
    assert result.points[0].caught == 3
    assert any(
        "contradict each other (some are flagged, some are not): crack0." in lack for lack in shortcomings(result)
    )
    assert "2 of 3 parts with crack and 2 of 2 good parts" in agreement_in_words(result)


def test_verdicts_and_learning_curves_are_worded_by_their_intervals() -> None:
    photos = photos_of(Path(), ("crack",))
    findings = findings_of(photos, ("crack",))
    for accuracy, words in (
        (PartAuc(0.99, 0.97, 1.0), "recognized well"),
        (PartAuc(0.9, 0.85, 0.93), "recognized fairly well"),
        (PartAuc(0.9, 0.6, 1.0), "too few parts to be sure"),
        (PartAuc(0.7, 0.6, 0.8), "recognized poorly"),
        (PartAuc(0.5, 0.3, 0.7), "not recognized"),
    ):
        trained = record(photos, ("crack",))
        assert words in result_in_words(
            result_of_type(trained, replace(findings, accuracy={"crack": accuracy}), "crack")
        )
    first = CurvePoint(10, 5, 0.8, 0.7, 0.9)
    assert learning_in_words([first, CurvePoint(20, 9, 0.85, 0.8, 0.9)]).startswith("Still rising")
    assert learning_in_words([first, CurvePoint(20, 9, 0.805, 0.7, 0.9)]).startswith("Flat:")
    assert learning_in_words([replace(first, auc=0.97), CurvePoint(20, 9, 0.975, 0.9, 1)]).startswith("Flat, and high")
    assert learning_in_words([first, CurvePoint(20, 9, 0.7, 0.6, 0.8)]).startswith("Uneven")
    assert learning_in_words([first]).startswith("Too few parts")
