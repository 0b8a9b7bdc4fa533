"""The learning curve: accuracy after training on fewer photographs, on held-out parts."""

from __future__ import annotations

from dataclasses import replace

import torch
from rich.console import Console

from tests.training.test_head import PATCHES, TYPES, samples
from training.features import Sample
from training.learning_curve import learning_curves

QUIET = Console(quiet=True)
FEATURES = 30

MARKED = [0, 1, 2, 6, 7, 8]
"""Neighbours on a grid of 6 x 6."""


def _faint(seed: int) -> list[Sample]:
    """Forty parts of a type that needs many parts: its mark is as faint as the variation between parts."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for label, parts in (("good", 40), ("crack", 40)):
        for part in range(parts):
            own = torch.randn(FEATURES, generator=draw)
            for _ in range(2):
                patches = torch.randn(PATCHES, FEATURES, generator=draw) + own
                coverage = torch.zeros(PATCHES)
                if label == "crack":
                    patches[MARKED, :4] += 1.6
                    coverage[MARKED] = 1
                coverage_or_none = coverage if label == "crack" else None
                made.append(
                    Sample(label, f"{label}{part}", patches.half(), patches.mean(0), coverage_or_none, (1, 6, 6))
                )
    return made


def test_accuracy_rises_with_the_number_of_photographs() -> None:
    points = learning_curves(_faint(0), ("crack",), 0, QUIET)["crack"]
    assert [point.photos for point in points] == [10, 20, 30, 50, 80]
    assert [point.parts for point in points] == [5, 10, 15, 25, 40]
    assert all(point.low <= point.auc <= point.high for point in points)
    assert points[-1].auc > points[0].auc + 0.05


def test_meaningless_labels_stay_at_chance_for_any_number() -> None:
    """If training parts were scored, their individual texture would reveal them."""
    made = _faint(1)
    unmarked = [replace(x, coverage=None) for x in made]
    for x in unmarked:
        if x.label == "crack":
            x.patches[MARKED, :4] -= 1.6
    points = learning_curves(unmarked, ("crack",), 0, QUIET)["crack"]
    assert all(0.25 < point.auc < 0.75 for point in points)


def test_a_type_with_few_photographs_has_one_point_and_one_with_one_part_has_none() -> None:
    made = [x for x in samples() if x.label != "dent" or x.part_id == "dent0"]
    curves = learning_curves(made, TYPES, 0, QUIET)
    assert [point.photos for point in curves["crack"]] == [6]
    assert curves["dent"] == ()
