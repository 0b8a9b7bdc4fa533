"""Which side of the split a part is on; photographs of one part never part.

Seeded parts prove the finished bundle and calibrating parts set its thresholds, so neither is ever learned from.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge.dataset import GOOD, Photo
from edge.runfiles import Role

SEED_SHARE, MIN_SEED_PARTS, MAX_SEED_PARTS = 0.3, 5, 15
"""Of a defect type's parts; what is left is learned from."""
MIN_TRAIN_PARTS = 2
"""Parts of a type that are learned from before any is seeded: with one, no part could be left out to test on."""
GOOD_CALIBRATE_SHARE, GOOD_SEED_SHARE = 0.3, 0.2
"""Of the good parts; the other half is learned from."""


@dataclass(frozen=True, slots=True)
class Split:
    """Every part's role, and what a person should know of it."""

    roles: Mapping[str, Role]
    notes: tuple[str, ...]


def seed_parts_wanted(parts: int) -> int:
    """How many of a defect type's parts are seeded."""
    wanted = min(max(round(SEED_SHARE * parts), MIN_SEED_PARTS), MAX_SEED_PARTS)
    return max(0, min(wanted, parts - MIN_TRAIN_PARTS))


def split_by_part(photos: Iterable[Photo], seed: int) -> Split:
    """Draw every part's role.

    A part that shows any defect is a defect part, also where other photographs of it are good. A part of two types
    counts for both; no type gets more seeded parts than `seed_parts_wanted`.
    """
    labels: dict[str, set[str]] = {}
    for photo in photos:
        labels.setdefault(photo.part_id, set()).add(photo.label)
    draw = random.Random(seed)  # noqa: S311  (a repeatable draw, no secret)
    types_of = {part: sorted(names - {GOOD}) for part, names in labels.items() if names != {GOOD}}
    good = _shuffled(set(labels) - set(types_of), draw)
    roles: dict[str, Role] = {**_defect_roles(types_of, draw), **_good_roles(good)}
    return Split(roles, tuple(_notes(types_of, good, roles)))


def _defect_roles(types_of: Mapping[str, Sequence[str]], draw: random.Random) -> dict[str, Role]:
    """Type by type, the rarest first, so that shared parts are spent where parts are few."""
    parts_of: dict[str, list[str]] = {}
    for part in sorted(types_of):
        for name in types_of[part]:
            parts_of.setdefault(name, []).append(part)
    wanted = {name: seed_parts_wanted(len(parts)) for name, parts in parts_of.items()}
    seeded = dict.fromkeys(parts_of, 0)
    roles: dict[str, Role] = {}
    for name in sorted(parts_of, key=lambda n: (len(parts_of[n]), n)):
        for part in _shuffled(parts_of[name], draw):
            if part in roles:
                continue
            if all(seeded[other] < wanted[other] for other in types_of[part]):
                roles[part] = "seed"
                for other in types_of[part]:
                    seeded[other] += 1
            else:
                roles[part] = "train"
    return roles


def _good_roles(shuffled: Sequence[str]) -> dict[str, Role]:
    calibrate = round(GOOD_CALIBRATE_SHARE * len(shuffled))
    held_back = calibrate + round(GOOD_SEED_SHARE * len(shuffled))
    roles: dict[str, Role] = dict.fromkeys(shuffled, "train")
    roles.update(dict.fromkeys(shuffled[:calibrate], "calibrate"))
    roles.update(dict.fromkeys(shuffled[calibrate:held_back], "seed"))
    return roles


def _shuffled(parts: Iterable[str], draw: random.Random) -> list[str]:
    ordered = sorted(parts)
    draw.shuffle(ordered)
    return ordered


def _notes(types_of: Mapping[str, Sequence[str]], good: Sequence[str], roles: Mapping[str, Role]) -> Iterable[str]:
    for name in sorted({name for names in types_of.values() for name in names}):
        parts = [part for part in types_of if name in types_of[part]]
        seeded = sum(roles[part] == "seed" for part in parts)
        if seeded < MIN_SEED_PARTS:
            yield f"{name}: {len(parts)} parts are too few for {MIN_SEED_PARTS} seeded ones; {seeded} seeded"
    if not good:
        yield "no good parts: there is no anomaly threshold and no false-alarm budget"
    if not types_of:
        yield "no defect photographs: the anomaly score alone is taught"
