"""Cross-validation by part: honest, by part, and with the figures of scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sklearn.metrics import roc_auc_score

from tests.training.test_head import TYPES, sample, samples
from training.features import Sample
from training.head import discriminants, scatter_from_samples
from training.validation import MAX_FOLDS, OutOfFold, auc_by_part, blend_from_scores, folds_by_part, out_of_fold

QUIET = Console(quiet=True)


def left_out(made: list[Sample], types: tuple[str, ...] = TYPES) -> OutOfFold:
    return out_of_fold(made, types, folds_by_part(made, types, 0), QUIET)


@pytest.mark.parametrize("good_parts", [3, 25, 90])
def test_a_fold_has_at_most_one_part_of_a_type_and_parts_stay_whole(good_parts: int) -> None:
    parts = {"good": good_parts, TYPES[0]: 10, TYPES[1]: 4}
    made = [sample(name, f"{name}{i % count}", i) for name, count in parts.items() for i in range(2 * count)]
    folds = folds_by_part(made, TYPES, 3)
    of_part: dict[str, set[int]] = {x.part_id: set() for x in made}
    for x, fold in zip(made, folds, strict=True):
        of_part[x.part_id].add(fold)
    assert all(len(found) == 1 for found in of_part.values())
    assert set(folds) == set(range(min(MAX_FOLDS, max(parts.values()))))
    for name in TYPES:
        assert len({fold for x, fold in zip(made, folds, strict=True) if x.label == name}) == parts[name]
    good = [fold for x, fold in zip(made, folds, strict=True) if x.label == "good"]
    counts = [good.count(fold) for fold in set(folds)]
    assert max(counts) - min(counts) <= 2, "spread evenly, two photographs per part"


def test_scores_out_of_fold_are_those_of_a_fit_without_the_part() -> None:
    made = samples()
    folds = folds_by_part(made, TYPES, 0)
    found = out_of_fold(made, TYPES, folds, QUIET)
    rest = [x for x, fold in zip(made, folds, strict=True) if fold != folds[0]]
    wanted = discriminants(rest, TYPES, scatter_from_samples(rest)).scores(made[0])
    torch.testing.assert_close(found.scores[0], wanted)
    torch.testing.assert_close(found.fitted[folds[0]].scores(made[0]), wanted)
    torch.testing.assert_close(found.clean.outer, scatter_from_samples(made).outer)


def _marked_parts(seed: int) -> list[Sample]:
    """Parts that each have a unique mark, unrelated to their label."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for i in range(40):
        patches = 0.1 * torch.randn(16, 40, generator=draw)
        patches[:, i] += 5
        made.append(Sample("good" if i % 2 else "crack", str(i), patches.half(), patches.mean(0), None, (1, 4, 4)))
    return made


def test_marks_unique_to_a_part_do_not_raise_the_cross_validated_auc() -> None:
    """Training parts with unique marks are separated perfectly, held-out parts are not."""
    seen: list[float] = []
    unseen: list[float] = []
    for seed in range(8):
        made = _marked_parts(seed)
        fitted = discriminants(made, ("crack",), scatter_from_samples(made))
        unseen_scores = left_out(made, ("crack",)).scores
        for scores, aucs in (
            ([float(fitted.scores(x)[1, 0]) for x in made], seen),
            (unseen_scores[:, 1, 0].tolist(), unseen),
        ):
            found = auc_by_part(scores, made, "crack", 0)
            assert found is not None
            aucs.append(found.auc)
    assert np.mean(seen) > 0.99
    assert 0.35 < np.mean(unseen) < 0.65


def test_a_type_of_one_part_has_no_score_out_of_fold_and_a_cautious_offset() -> None:
    made = [x for x in samples() if x.label != "dent"] + [sample("dent", "only", 5)]
    scores = left_out(made).scores
    assert torch.isnan(scores[-1, :, 1]).all()
    blend = blend_from_scores(scores, made, TYPES)
    logits = blend.logits(scores)[:, 1]
    assert (logits[~torch.isnan(logits)] < 0).all(), "parts without the defect stay below one half"
    assert auc_by_part(torch.sigmoid(logits).tolist(), made, "dent", 0) is None


def test_blended_logits_are_balanced() -> None:
    made = samples()
    scores = left_out(made).scores
    crack = blend_from_scores(scores, made, TYPES).logits(scores)[:, 0]
    of_type = torch.tensor([x.label == "crack" for x in made])
    assert crack[of_type].median() > 0 > crack[~of_type].median()
    assert torch.isfinite(crack).all()


@given(
    scores=st.lists(st.floats(0, 1).map(lambda value: round(value, 2)), min_size=6, max_size=40),
    seed=st.integers(0, 3),
)
def test_auc_is_scikit_learn_s_over_the_means_of_parts(scores: list[float], seed: int) -> None:
    made = [sample("crack" if i % 3 == 0 else "good", str(i // 2 * 2 + (i % 3 == 0)), 0) for i in range(len(scores))]
    found = auc_by_part(scores, made, "crack", seed)
    by_part: dict[tuple[str, str], list[float]] = {}
    for score, x in zip(scores, made, strict=True):
        by_part.setdefault((x.label, x.part_id), []).append(score)
    wanted = roc_auc_score([label == "crack" for label, _ in by_part], [np.mean(x) for x in by_part.values()])
    assert found is not None
    assert found.auc == pytest.approx(wanted)
    assert found.low <= found.high
