"""The split of parts into training, calibration and seeded (test) parts; photographs of one part stay together.

Seeded parts prove the finished bundle and calibration parts set its thresholds, so neither is used for training. Parts
that an earlier run seeded stay seeded if its set is given.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge.bundle.manifest import GOOD
from edge.errors import ProcunitError
from training.data.dataset import Photo
from training.data.run_files import SplitSide
from training.seeded import SeededSet, refuse_duplicate_photographs, seeded_parts

SEED_SHARE, MIN_SEED_PARTS, MAX_SEED_PARTS = 0.3, 5, 15
"""Seeded share of a defect type's parts, with bounds; the rest is for training."""
MIN_TRAIN_PARTS = 2
"""Parts of a type for training before any is seeded: with a single one, cross-validation would be impossible."""
GOOD_CALIBRATE_SHARE, GOOD_SEED_SHARE = 0.3, 0.2
"""Shares of the good parts; the other half is for training."""
_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Split:
    """Every part's side of the split, and notes for the user."""

    sides: Mapping[str, SplitSide]
    notes: tuple[str, ...]


def seed_parts_wanted(parts: int) -> int:
    """How many of a defect type's parts are seeded."""
    wanted = min(max(round(SEED_SHARE * parts), MIN_SEED_PARTS), MAX_SEED_PARTS)
    return max(0, min(wanted, parts - MIN_TRAIN_PARTS))


def split_by_part(photos: Iterable[Photo], seed: int, seeded: SeededSet | None = None) -> Split:
    """Draw every part's side; parts with a photograph of the set `seeded` are seeded and count towards the number.

    A part with any defect photograph is a defect part, even if other photographs of it are good. A part of two types
    counts for both; no draw gives a type more seeded parts than `seed_parts_wanted`.

    Raises:
        ProcunitError: identical photographs have two part ids or two labels, here or in the set; or the set leaves no
            part of a type for training.
    """
    shown = list(photos)
    refuse_duplicate_photographs(shown)
    held = seeded_parts(shown, seeded) if seeded is not None else frozenset()
    labels: dict[str, set[str]] = {}
    for photo in shown:
        labels.setdefault(photo.part_id, set()).add(photo.label)
    draw = random.Random(seed)  # noqa: S311  (a repeatable draw, no secret)
    types_of = {part: sorted(names - {GOOD}) for part, names in labels.items() if names != {GOOD}}
    good = _shuffled(set(labels) - set(types_of), draw)
    sides: dict[str, SplitSide] = {**_defect_sides(types_of, held, draw), **_good_sides(good, held)}
    notes = [*_type_notes(types_of, sides), *_good_notes(good, sides)]
    if not types_of:
        notes.append("no defect photographs: only the anomaly score is available")
    if seeded is not None:
        _refuse_nothing_to_learn(types_of, sides, seeded)
        notes += _set_notes(shown, held, seeded)
    return Split(sides, tuple(notes))


def _defect_sides(
    types_of: Mapping[str, Sequence[str]], held: Collection[str], draw: random.Random
) -> dict[str, SplitSide]:
    """Draw for the rarest type first, so that parts of several types go where parts are few; `held` ones are seeded."""
    parts_of: dict[str, list[str]] = {}
    for part in sorted(types_of):
        for name in types_of[part]:
            parts_of.setdefault(name, []).append(part)
    wanted = {name: seed_parts_wanted(len(parts)) for name, parts in parts_of.items()}
    sides: dict[str, SplitSide] = {part: "seed" for part in types_of if part in held}
    seeded = {name: sum(part in sides for part in parts) for name, parts in parts_of.items()}
    for name in sorted(parts_of, key=lambda n: (len(parts_of[n]), n)):
        for part in _shuffled(parts_of[name], draw):
            if part in sides:
                continue
            if all(seeded[other] < wanted[other] for other in types_of[part]):
                sides[part] = "seed"
                for other in types_of[part]:
                    seeded[other] += 1
            else:
                sides[part] = "train"
    return sides


def _good_sides(shuffled: Sequence[str], held: Collection[str]) -> dict[str, SplitSide]:
    free = [part for part in shuffled if part not in held]
    calibrate = round(GOOD_CALIBRATE_SHARE * len(shuffled))
    held_back = calibrate + max(0, round(GOOD_SEED_SHARE * len(shuffled)) - (len(shuffled) - len(free)))
    sides: dict[str, SplitSide] = dict.fromkeys(shuffled, "seed")
    sides.update(dict.fromkeys(free[:calibrate], "calibrate"))
    sides.update(dict.fromkeys(free[held_back:], "train"))
    return sides


def _shuffled(parts: Iterable[str], draw: random.Random) -> list[str]:
    ordered = sorted(parts)
    draw.shuffle(ordered)
    return ordered


def _parts_by_type(types_of: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    names = sorted({name for names in types_of.values() for name in names})
    return {name: [part for part in types_of if name in types_of[part]] for name in names}


def _type_notes(types_of: Mapping[str, Sequence[str]], sides: Mapping[str, SplitSide]) -> Iterable[str]:
    for name, parts in _parts_by_type(types_of).items():
        seeded = sum(sides[part] == "seed" for part in parts)
        if seeded >= MIN_SEED_PARTS:
            continue
        short = MIN_SEED_PARTS + MIN_TRAIN_PARTS - len(parts)
        remedy = f"photograph {_in_parts(short, 'more ')}" if short > 0 else "photograph parts that show it alone"
        if seeded:
            yield f"{name}: {seeded} of {_in_parts(len(parts))} seeded, {MIN_SEED_PARTS} are needed; {remedy}"
        else:
            yield (
                f"{name}: {_in_parts(len(parts))}, all used for training, like the first {MIN_TRAIN_PARTS} of a type; "
                f"without seeded parts the type is not proven and can only send to review; {remedy}"
            )


def _good_notes(good: Sequence[str], sides: Mapping[str, SplitSide]) -> Iterable[str]:
    if not good:
        yield "no good parts: there is no anomaly threshold and no false-alarm budget"
    elif all(sides[part] == "seed" for part in good):
        yield "all good parts are in the seeded set: there is no anomaly threshold; photograph other good parts"


def _set_notes(photos: Sequence[Photo], held: Collection[str], seeded: SeededSet) -> Iterable[str]:
    absent = len(seeded.photos.keys() - {photo.sha256 for photo in photos})
    if absent:
        yield f"{absent} of the seeded set's {len(seeded.photos)} photographs are not in the data; they stay in the set"
    names = {known.part_id for known in seeded.photos.values()}
    alike = sorted({photo.part_id for photo in photos} & names - set(held))
    if alike:
        yield (
            f"{_in_parts(len(alike))} with the id of a seeded part but none of its photographs, taken as other parts: "
            f"{', '.join(alike[:_EXAMPLES])}; remove them if they are the same parts"
        )


def _refuse_nothing_to_learn(
    types_of: Mapping[str, Sequence[str]], sides: Mapping[str, SplitSide], seeded: SeededSet
) -> None:
    for name, parts in _parts_by_type(types_of).items():
        if all(sides[part] == "seed" for part in parts):
            raise ProcunitError(
                f"contains all {_in_parts(len(parts))} of {name}, so none is left for training",
                where=seeded.source,
                remedy=f"Add other parts of {name} to the data, or remove its photographs",
            )


def _in_parts(count: int, which: str = "") -> str:
    return f"{count} {which}{'part' if count == 1 else 'parts'}"
