"""The seeded set stays out of training by content, even after renaming, and conflicts are reported."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.bundle.manifest import GOOD
from edge.errors import ProcunitError
from training.data.dataset import Photo
from training.data.run_files import RunPhoto
from training.seeded import SEEDED_FILE, SeededPhoto, SeededSet, read_seeded, write_seeded
from training.split import Split, seed_parts_wanted, split_by_part

SHOWS = {**{f"d{i}": "dent" for i in range(12)}, **{f"g{i}": GOOD for i in range(10)}}


def content(name: str) -> str:
    return sha256(name.encode()).hexdigest()


def photo(part: str, label: str, copy: int = 0) -> Photo:
    file = f"{label}/{part}-{copy}.png"
    return Photo(Path("data") / file, file, content(file), part, label, None)


def photos_of(shows: dict[str, str]) -> list[Photo]:
    return [photo(part, label, copy) for part, label in shows.items() for copy in (0, 1)]


def run_photos(photos: list[Photo], split: Split) -> list[RunPhoto]:
    return [
        RunPhoto(sha256=p.sha256, part_id=p.part_id, label=p.label, role=split.sides[p.part_id], file=p.file)
        for p in photos
    ]


def set_of(*photos: Photo) -> SeededSet:
    known = {p.sha256: SeededPhoto(sha256=p.sha256, part_id=p.part_id, label=p.label) for p in photos}
    return SeededSet(known, "earlier/seeded.json")


def written(run: Path, photos: list[Photo], split: Split, earlier: SeededSet | None = None) -> SeededSet:
    run.mkdir()
    write_seeded(run, run_photos(photos, split), earlier)
    return read_seeded(run)


def seeded_in(split: Split) -> set[str]:
    return {part for part, side in split.sides.items() if side == "seed"}


def test_a_set_is_read_back_from_the_run_and_from_the_file(tmp_path: Path) -> None:
    photos = photos_of(SHOWS)
    split = split_by_part(photos, 0)
    found = written(tmp_path / "run", photos, split)
    assert {known.part_id for known in found.photos.values()} == seeded_in(split)
    assert set(found.photos) == {p.sha256 for p in photos if split.sides[p.part_id] == "seed"}
    assert read_seeded(tmp_path / "run" / SEEDED_FILE) == found
    assert [path.name for path in (tmp_path / "run").iterdir()] == [SEEDED_FILE]


@given(
    parts=st.dictionaries(st.integers(0, 99).map(str), st.sampled_from((GOOD, "dent", "crack")), min_size=1),
    seed=st.integers(0, 5),
)
def test_the_same_photographs_with_their_own_set_are_split_as_before(parts: dict[str, str], seed: int) -> None:
    photos = photos_of(parts)
    split = split_by_part(photos, seed)
    seeded = set_of(*(p for p in photos if split.sides[p.part_id] == "seed"))
    assert split_by_part(photos, seed, seeded).sides == split.sides


@pytest.mark.parametrize("seed", range(4))
def test_seeded_parts_stay_out_of_training_under_other_names_and_another_seed(tmp_path: Path, seed: int) -> None:
    photos = photos_of(SHOWS)
    first = split_by_part(photos, 0)
    earlier = written(tmp_path / "run", photos, first)
    renamed = [replace(p, file=f"{p.label}/new-{p.sha256[:9]}.png", part_id=f"new-{p.part_id}") for p in photos]
    second = split_by_part(renamed, seed, earlier)
    assert seeded_in(second) == {f"new-{part}" for part in seeded_in(first)}, (
        "the set has as many as are needed, so no others are seeded"
    )


def test_one_seeded_photograph_seeds_its_whole_part_and_joined_parts() -> None:
    photos = photos_of(SHOWS)
    joined = [replace(p, part_id="d0") if p.part_id == "d1" else p for p in photos]
    split = split_by_part(joined, 3, set_of(photo("d1", "dent", copy=1)))
    assert split.sides["d0"] == "seed"


def test_more_parts_are_seeded_where_there_are_more_parts() -> None:
    few, many = {f"d{i}": "dent" for i in range(12)}, {f"d{i}": "dent" for i in range(40)}
    first = split_by_part(photos_of(few), 0)
    seeded = set_of(*(p for p in photos_of(few) if first.sides[p.part_id] == "seed"))
    grown = split_by_part(photos_of(many), 1, seeded)
    assert seeded_in(first) < seeded_in(grown)
    assert len(seeded_in(grown)) == seed_parts_wanted(40)


def test_good_parts_of_the_set_count_among_the_seeded_ones() -> None:
    photos = photos_of({f"g{i}": GOOD for i in range(20)})
    split = split_by_part(photos, 0, set_of(photo("g0", GOOD), photo("g1", GOOD)))
    assert {"g0", "g1"} < seeded_in(split)
    assert [list(split.sides.values()).count(side) for side in ("seed", "calibrate", "train")] == [4, 6, 10]


def test_photographs_that_are_not_in_the_data_stay_in_the_set(tmp_path: Path) -> None:
    photos = photos_of(SHOWS)
    absent = photo("d99", "dent")
    earlier = set_of(absent, photo("d3", "dent"))
    split = split_by_part(photos, 0, earlier)
    assert "1 of the seeded set's 2 photographs are not in the data; they stay in the set" in split.notes
    later = written(tmp_path / "run", photos, split, earlier)
    assert later.photos[absent.sha256].part_id == "d99"
    assert photo("d3", "dent", copy=1).sha256 in later.photos, "the whole part"


def test_a_part_that_only_shares_a_seeded_part_s_id_is_noted() -> None:
    photos = photos_of(SHOWS)
    other = replace(photo("d5", "dent"), sha256=content("another photograph"))
    split = split_by_part(photos, 0, set_of(other))
    assert any("with the id of a seeded part" in note and "d5" in note for note in split.notes)


def test_another_label_than_in_the_set_is_refused() -> None:
    seeded = set_of(replace(photo("d5", GOOD), sha256=photo("d5", "dent").sha256))
    with pytest.raises(ProcunitError) as raised:
        split_by_part(photos_of(SHOWS), 0, seeded)
    assert raised.value.where == "earlier/seeded.json"
    assert "data/dent/d5-0.png is labelled 'dent', but 'good'" in raised.value.what
    assert "correct it in the set, too" in str(raised.value.remedy)


def test_a_set_with_all_parts_of_a_type_is_refused() -> None:
    shows = {"d0": "dent", "d1": "dent", "d2": "dent", "g0": GOOD, "g1": GOOD}
    dents = [p for p in photos_of(shows) if p.label == "dent"]
    with pytest.raises(ProcunitError, match="contains all 3 parts of dent"):
        split_by_part(photos_of(shows), 0, set_of(*dents))


def test_a_set_with_all_good_parts_leaves_no_threshold_with_a_note() -> None:
    photos = photos_of({f"g{i}": GOOD for i in range(3)})
    split = split_by_part(photos, 0, set_of(*photos))
    assert seeded_in(split) == {"g0", "g1", "g2"}
    assert any("all good parts are in the seeded set" in note for note in split.notes)


@pytest.mark.parametrize(
    ("again", "message"),
    [
        ({"part_id": "d9"}, "has the part id 'd9', that one 'd1'"),
        ({"label": GOOD}, "labelled 'good', that one 'dent'"),
    ],
)
def test_one_photograph_as_two_parts_or_with_two_labels_is_refused(again: dict[str, str], message: str) -> None:
    photos = photos_of({"d1": "dent", "d2": "dent"})
    copy = replace(photos[0], file="z/copy.png", path=Path("data/z/copy.png"), **again)  # type: ignore[arg-type]
    with pytest.raises(ProcunitError) as raised:
        split_by_part([copy, *photos], 0)
    assert raised.value.where == "data/z/copy.png"
    assert "identical to data/dent/d1-0.png" in raised.value.what
    assert message in raised.value.what
    assert raised.value.remedy


def test_a_copy_within_a_part_does_no_harm() -> None:
    photos = photos_of({"d1": "dent", "d2": "dent"})
    copy = replace(photos[0], file="dent/copy.png")
    assert split_by_part([*photos, copy], 0) == split_by_part(photos, 0)


@pytest.mark.parametrize(
    ("content_of_file", "message"),
    [
        (None, "no seeded set here"),
        ("", "not a seeded set"),
        ("[]", "not a seeded set"),
        ('{"photos": [], "more": 1}', "more"),
        (json.dumps({"photos": [{"sha256": "ab", "part_id": "p", "label": "dent"}]}), "sha256"),
        (json.dumps({"photos": [{"sha256": "0" * 64, "part_id": 7, "label": "dent"}]}), "part_id"),
        (json.dumps({"photos": [{"sha256": "0" * 64, "part_id": "p", "label": "dent"}] * 2}), "appears 2 times"),
    ],
    ids=["missing", "empty", "list", "unknown key", "short hash", "number", "twice"],
)
def test_a_file_that_is_not_a_set_is_refused(tmp_path: Path, content_of_file: str | None, message: str) -> None:
    if content_of_file is not None:
        (tmp_path / SEEDED_FILE).write_text(content_of_file)
    with pytest.raises(ProcunitError, match=message) as raised:
        read_seeded(tmp_path)
    assert raised.value.where == str(tmp_path / SEEDED_FILE)
    assert raised.value.remedy
