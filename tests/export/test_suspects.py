"""Good parts that may be mislabelled: found by the head or by being unlike all others, and shown in a page."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner

from edge.dataset import GOOD
from edge.runfiles import TRAIN_FILE, RunPhoto, TrainRecord, read_record
from export.bank import rows_with_reach
from export.candidates import Candidates
from export.cli import export
from export.report import SUSPECTS_FILE
from export.suspects import LEAST_PARTS, Suspect, suspects_from_candidates

PARTS, PATCHES, SIZE = 20, 64, 8


def _photo(part: int) -> RunPhoto:
    return RunPhoto(sha256=f"{part:064x}", part_id=f"P{part}", label=GOOD, role="train", file=f"good/{part}.png")


def _suspects(patches: list[torch.Tensor], logits: dict[int, float] | None = None) -> tuple[Suspect, ...]:
    """Of one photograph a part; `logits` are the head's for the one type, -3 where none is given."""
    places = torch.arange(len(patches)).repeat_interleave(PATCHES)
    told = np.array([[(logits or {}).get(part, -3.0)] for part in range(len(patches))], np.float32)
    every = torch.cat(patches)
    chosen = torch.arange(0, len(every), 4)
    rows = rows_with_reach(every[chosen]).numpy()
    photos = [_photo(part) for part in range(len(patches))]
    part_of_row = np.array([photo.part_id for photo in photos])[places[chosen].numpy()]
    candidates = Candidates(every, places, 0.0, np.zeros(len(patches), np.float32), told)
    return suspects_from_candidates(photos, candidates, rows, part_of_row, ("crack",))


def _alike(parts: int = PARTS) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(PATCHES, SIZE, generator=draw) for _ in range(parts)]


def test_parts_that_are_all_alike_give_none() -> None:
    assert len(_suspects(_alike())) <= 1


def test_a_part_far_from_all_others_is_found_without_a_head() -> None:
    patches = _alike()
    patches[7] = patches[7] + 5
    first, *others = _suspects(patches)
    assert first.part_id == "P7"
    assert "unlike all other parts" in first.reason
    assert first.type_place is None
    assert len(others) <= 1


def test_what_the_head_takes_for_a_defect_comes_first_and_is_named() -> None:
    patches = _alike()
    patches[7] = patches[7] + 5
    first, second, *_ = _suspects(patches, {3: 2.0})
    assert (first.part_id, first.type_place, second.part_id) == ("P3", 0, "P7")
    assert first.reason.startswith("looks like crack (0.88)")


def test_too_few_parts_tell_nothing_of_what_is_usual() -> None:
    patches = _alike(LEAST_PARTS - 1)
    patches[2] = patches[2] + 5
    assert _suspects(patches) == ()


def test_a_mislabelled_part_is_shown_in_a_page_that_loads_nothing(trained: Path, tmp_path: Path) -> None:
    """A defect among the good ones: its photographs carry the label good in the run's record."""
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    record = read_record(run, TRAIN_FILE, TrainRecord)
    hidden = next(photo.part_id for photo in record.photos if photo.label == "line" and photo.role == "train")
    photos = tuple(
        photo.model_copy(update={"label": GOOD, "part_id": "<b>hidden</b>", "mask": None})
        if photo.part_id == hidden
        else photo
        for photo in record.photos
    )
    (run / TRAIN_FILE).write_text(record.model_copy(update={"photos": photos}).model_dump_json())
    result = CliRunner().invoke(export, [str(run), "--bank-rows", "60"])
    assert result.exception is None, result.output
    assert "<b>hidden</b>: looks like line" in result.output
    page = (run / SUSPECTS_FILE).read_text(encoding="utf-8")
    assert "&lt;b&gt;hidden&lt;/b&gt;" in page
    assert "<b>hidden" not in page
    assert 'src="data:image/jpeg;base64,' in page
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page


def test_a_page_of_an_earlier_export_does_not_outlive_it(run: Path) -> None:
    (run / SUSPECTS_FILE).write_text("outdated")
    result = CliRunner().invoke(export, [str(run), "--bank-rows", "60"])
    assert result.exception is None, result.output
    assert not (run / SUSPECTS_FILE).exists() or (run / SUSPECTS_FILE).read_text() != "outdated"
