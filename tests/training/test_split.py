"""The split: no part on two sides, seeded counts within bounds, the same draw for the same seed."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edge.bundle.manifest import GOOD
from training.data.dataset import Photo
from training.split import (
    MAX_SEED_PARTS,
    MIN_SEED_PARTS,
    MIN_TRAIN_PARTS,
    SEED_SHARE,
    seed_parts_wanted,
    split_by_part,
)

TYPES = ("crack", "dent", "scratch")
shown = st.dictionaries(
    st.integers(0, 300).map(str),
    st.sets(st.sampled_from((GOOD, *TYPES)), min_size=1),
    min_size=1,
    max_size=120,
)


def _photos(shows: dict[str, set[str]]) -> list[Photo]:
    return [
        Photo(Path(f"{label}-{part}"), f"{label}-{part}", f"content {label} {part}", part, label, None)
        for part, labels in shows.items()
        for label in sorted(labels)
    ]


@given(shows=shown, seed=st.integers(0, 5))
def test_every_part_has_one_side_and_the_draw_is_repeatable(shows: dict[str, set[str]], seed: int) -> None:
    photos = _photos(shows)
    split = split_by_part(photos, seed)
    assert set(split.sides) == set(shows)
    assert split_by_part(reversed(photos), seed) == split
    assert all(shows[part] == {GOOD} for part, side in split.sides.items() if side == "calibrate")


@given(shows=shown, seed=st.integers(0, 5))
def test_no_type_has_more_seeded_parts_than_wanted_and_enough_are_for_training(
    shows: dict[str, set[str]], seed: int
) -> None:
    sides = split_by_part(_photos(shows), seed).sides
    for name in TYPES:
        parts = [part for part, labels in shows.items() if name in labels]
        seeded = [part for part in parts if sides[part] == "seed"]
        assert len(seeded) <= seed_parts_wanted(len(parts)) <= max(MIN_SEED_PARTS, MAX_SEED_PARTS)
        assert len(parts) - len(seeded) >= min(len(parts), MIN_TRAIN_PARTS)


@given(counts=st.lists(st.integers(0, 80), min_size=3, max_size=3), good=st.integers(0, 100), seed=st.integers(0, 5))
def test_counts_are_exact_where_no_part_shows_two_types(counts: list[int], good: int, seed: int) -> None:
    shows = {
        f"{name}{i}": {name} for name, count in zip((*TYPES, GOOD), (*counts, good), strict=True) for i in range(count)
    }
    sides = split_by_part(_photos(shows), seed).sides
    for name, count in zip(TYPES, counts, strict=True):
        seeded = sum(sides[f"{name}{i}"] == "seed" for i in range(count))
        assert seeded == max(0, min(max(round(SEED_SHARE * count), 5), 15, count - 2))
    good_sides = [sides[f"{GOOD}{i}"] for i in range(good)]
    assert good_sides.count("calibrate") == round(0.3 * good)
    assert good_sides.count("seed") == round(0.2 * good)


def test_another_seed_draws_other_parts() -> None:
    photos = _photos({str(i): {GOOD} for i in range(40)})
    assert split_by_part(photos, 0).sides != split_by_part(photos, 1).sides


def test_notes_name_missing_parts() -> None:
    few = split_by_part(_photos({str(i): {"dent"} for i in range(4)}), 0)
    assert few.notes == (
        "dent: 2 of 4 parts seeded, 5 are needed; photograph 3 more parts",
        "no good parts: there is no anomaly threshold and no false-alarm budget",
    )
    assert "no defect photographs" in split_by_part(_photos({"a": {GOOD}}), 0).notes[0]
    (two, _) = split_by_part(_photos({str(i): {"dent"} for i in range(2)}), 0).notes
    assert two == (
        "dent: 2 parts, all used for training, like the first 2 of a type; without seeded parts the type is not proven "
        "and can only send to review; photograph 5 more parts"
    )
    one = split_by_part(_photos({**{str(i): {"dent"} for i in range(6)}, "g": {GOOD}}), 0).notes
    assert one == ("dent: 4 of 6 parts seeded, 5 are needed; photograph 1 more part",)
    shared = {f"s{i}": {"crack", "dent"} for i in range(3)} | {f"d{i}": {"dent"} for i in range(4)}
    assert split_by_part(_photos(shared), 0).notes[0] == (
        "crack: 1 of 3 parts seeded, 5 are needed; photograph 4 more parts"
    )
    enough = {**{f"d{i}": {"dent"} for i in range(10)}, **{f"g{i}": {GOOD} for i in range(10)}}
    assert split_by_part(_photos(enough), 0).notes == ()
