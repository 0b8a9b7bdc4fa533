"""The discriminants find the difference with and without masks, and the head computes the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from training.features import Sample
from training.head import POOLED_PARTS, Blend, Scatter, discriminants, head_from_discriminants, scatter_from_samples
from training.model import strongest_places

PATCHES, FEATURES = 36, 12
TYPES = ("crack", "dent")
SHIFT = 6.0


def sample(label: str, part: str, seed: int, *, masked: bool = True) -> Sample:
    """A photograph whose first two patches carry feature 0 (crack) or feature 1 (dent)."""
    draw = torch.Generator().manual_seed(seed)
    patches = torch.randn(PATCHES, FEATURES, generator=draw)
    coverage = torch.zeros(PATCHES)
    if label in TYPES:
        patches[:2, TYPES.index(label)] += SHIFT
        coverage[:2] = 1
    shown = coverage if masked and label in TYPES else None
    return Sample(label, part, patches.half(), patches.mean(0), shown, (1, 6, 6))


def samples(*, good: int = 12, masked: bool = True) -> list[Sample]:
    made = [sample("good", f"g{i}", i) for i in range(good)]
    for place, name in enumerate(TYPES, start=1):
        made += [sample(name, f"{name}{i}", 100 * place + i, masked=masked) for i in range(6)]
    return made


def _strongest(made: list[Sample], probe: Sample) -> Tensor:
    return discriminants(made, TYPES, scatter_from_samples(made)).scores(probe)[0]


@pytest.mark.parametrize("masked", [True, False], ids=["masks", "no masks"])
@pytest.mark.parametrize("good", [12, 0], ids=["good", "no good"])
def test_each_type_is_separated_from_the_other_and_from_good(masked: bool, good: int) -> None:
    made = samples(good=good, masked=masked)
    crack, dent, fine = (_strongest(made, sample(name, "new", 999)) for name in ("crack", "dent", "good"))
    assert crack[0] > max(dent[0], fine[0])
    assert dent[1] > max(crack[1], fine[1])


def test_scatter_of_folds_adds_up() -> None:
    made = samples()
    parts = scatter_from_samples(made[:10]) + scatter_from_samples(made[10:])
    whole = scatter_from_samples(made)
    assert parts.weight == pytest.approx(whole.weight)
    torch.testing.assert_close(parts.outer, whole.outer)
    torch.testing.assert_close(parts.total, whole.total)


def test_photographs_of_one_part_share_its_weight() -> None:
    first, second = sample("good", "a", 1), sample("good", "b", 2)
    once = scatter_from_samples([first, second])
    often = scatter_from_samples([first, second, second, second])
    torch.testing.assert_close(often.total, once.total)
    assert often.weight == pytest.approx(2.0)


def test_covered_patches_are_not_clean() -> None:
    marked = sample("crack", "c", 1)
    assert marked.coverage is not None
    clean = marked.patches[2:].double()
    scatter = scatter_from_samples([marked])
    torch.testing.assert_close(scatter.total, clean.mean(0), atol=1e-6, rtol=0)


def test_the_direction_is_fisher_s() -> None:
    made = samples()
    scatter: Scatter = scatter_from_samples(made)
    mean = scatter.total / scatter.weight
    covariance = scatter.outer / scatter.weight - torch.outer(mean, mean)
    shown = torch.stack([x.patches[:2].double().mean(0) for x in made if x.label == "dent"]).mean(0)
    wanted = torch.linalg.inv(covariance + 0.3 * covariance.diagonal().diag()) @ (shown - mean)
    torch.testing.assert_close(discriminants(made, TYPES, scatter).patch[1], wanted)


def test_a_type_without_photographs_scores_nothing() -> None:
    made = [x for x in samples() if x.label != "dent"]
    scores = discriminants(made, TYPES, scatter_from_samples(made)).scores(sample("dent", "new", 5))
    assert scores[:, 1].tolist() == [0.0, 0.0]
    assert scores[0, 0] != 0


def test_the_head_computes_what_was_fitted() -> None:
    made = samples()
    found = discriminants(made, TYPES, scatter_from_samples(made))
    blend = Blend(*(torch.tensor(values, dtype=torch.float64) for values in ([0.5, 2.0], [1.0, 3.0], [-1.0, 0.25])))
    head, probe = head_from_discriminants(found, blend), sample("crack", "new", 7)
    outputs = head(probe.patches.float().t().reshape(1, FEATURES, 6, 6))
    wanted = blend.logits(found.scores(probe)[None])
    torch.testing.assert_close(outputs.logits.double(), wanted, atol=1e-3, rtol=1e-3)
    assert outputs.defect_maps.shape == (1, 2, 6, 6)
    assert int(outputs.defect_maps[0, 0].flatten().argmax()) in (0, 1), "the map's peak is where the crack is"


def test_one_noisy_patch_does_not_make_a_high_score() -> None:
    maps = torch.zeros(1, 2, 6, 6)
    maps[0, 0, 3, 3] = 4.0
    maps[0, 1, 2:4, 2:4] = 2.0
    assert strongest_places(maps).tolist() == [[1.0, pytest.approx(4 / 3)]]


@pytest.mark.parametrize("parts", [3, 300])
def test_types_with_few_parts_are_shrunk_to_the_common_mean(parts: int) -> None:
    """Both types' photographs shift equally in feature 2, and each type in another feature."""
    draw = torch.Generator().manual_seed(0)
    made = [sample("good", f"g{i}", i) for i in range(300)]
    for column, name in enumerate(TYPES):
        for i in range(parts):
            context = 0.1 * torch.randn(FEATURES, generator=draw)
            context[column] += 1.0
            context[2] += 1.0
            made.append(replace(sample(name, f"{name}{i}", i), context=context))
    crack, dent = discriminants(made, TYPES, scatter_from_samples(made)).context
    own, other, common = (float(crack[i] / crack[2]) for i in range(3))
    assert common == 1.0
    assert own + other == pytest.approx(1.0, abs=0.2), "what is pooled is the mean over both types"
    assert own > 0.5
    assert other == pytest.approx((0.5 if parts == 3 else 0.0) * POOLED_PARTS / (parts + POOLED_PARTS), abs=0.15)
    assert float(dent[1]) > float(dent[0])


def test_a_mirrored_photograph_counts_as_another_one_of_its_part() -> None:
    copies = []
    for x in samples():
        coverage = None if x.coverage is None else x.coverage.flip(0)
        copies.append(replace(x, mirrored=replace(x, patches=x.patches.flip(0) + 1, coverage=coverage)))
    apart = [shown for x in copies for shown in (replace(x, mirrored=None), x.mirrored) if shown is not None]
    together, wanted = (discriminants(of, TYPES, scatter_from_samples(of)) for of in (copies, apart))
    for field in ("patch", "patch_offset", "context", "context_offset"):
        torch.testing.assert_close(getattr(together, field), getattr(wanted, field))
