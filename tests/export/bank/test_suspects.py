"""Good parts that may be mislabelled: found by the head or as outliers, and shown in a page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from edge.anomaly import counted_patches, distances_to_rows, score_from_distances
from edge.bundle.manifest import GOOD
from export.bank.candidates import Candidates, patches_from_photo
from export.bank.memory_bank import MemoryBank, build_memory_bank, rows_with_local_scale
from export.bank.suspects import MIN_PARTS, Suspect, suspects_from_candidates
from export.cli import export
from export.report import SUSPECTS_FILE
from tests.export.conftest import OUTDATED
from training.data.run_files import TRAIN_FILE, RunPhoto, TrainRecord, read_record
from training.model import model_from_checkpoint

PARTS, PATCHES, SIZE = 20, 64, 8


def _photo(part: int) -> RunPhoto:
    return RunPhoto(sha256=f"{part:064x}", part_id=f"P{part}", label=GOOD, role="train", file=f"good/{part}.png")


def _suspects(patches: list[torch.Tensor], logits: dict[int, float] | None = None) -> tuple[Suspect, ...]:
    """Suspects among parts of one photograph each; `logits` of the head for the one type default to -3."""
    places = torch.arange(len(patches)).repeat_interleave(PATCHES)
    head_logits = np.array([[(logits or {}).get(part, -3.0)] for part in range(len(patches))], np.float32)
    every = torch.cat(patches)
    chosen = torch.arange(0, len(every), 4)
    rows = rows_with_local_scale(every[chosen]).numpy()
    photos = [_photo(part) for part in range(len(patches))]
    part_of_row = np.array([photo.part_id for photo in photos])[places[chosen].numpy()]
    candidates = Candidates(every, places, 0.0, np.zeros(len(patches), np.float32), head_logits)
    return suspects_from_candidates(photos, candidates, rows, part_of_row, ("crack",))


def _similar_parts(parts: int = PARTS) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(PATCHES, SIZE, generator=draw) for _ in range(parts)]


def test_similar_parts_give_at_most_one_suspect() -> None:
    assert len(_suspects(_similar_parts())) <= 1


def test_an_outlier_is_found_without_a_head() -> None:
    patches = _similar_parts()
    patches[7] = patches[7] + 5
    first, *others = _suspects(patches)
    assert first.part_id == "P7"
    assert "unlike all other parts" in first.reason
    assert first.type_index is None
    assert len(others) <= 1


def test_a_part_that_the_head_takes_for_a_defect_comes_first_with_its_type() -> None:
    patches = _similar_parts()
    patches[7] = patches[7] + 5
    first, second, *_ = _suspects(patches, {3: 2.0})
    assert (first.part_id, first.type_index, second.part_id) == ("P3", 0, "P7")
    assert first.reason.startswith("looks like crack (0.88)")


def test_too_few_parts_give_no_outliers() -> None:
    patches = _similar_parts(MIN_PARTS - 1)
    patches[2] = patches[2] + 5
    assert _suspects(patches) == ()


def _with_hidden_part(record: TrainRecord, part_id: str) -> TrainRecord:
    """The record with one taught part of type line labelled good, under another part id."""
    hidden = next(photo.part_id for photo in record.photos if photo.label == "line" and photo.role == "train")
    mislabelled = {"label": GOOD, "part_id": part_id, "mask": None}
    photos = tuple(p.model_copy(update=mislabelled) if p.part_id == hidden else p for p in record.photos)
    return record.model_copy(update={"photos": photos})


@pytest.mark.slow
def test_a_mislabelled_part_is_shown_in_a_page_that_loads_nothing(run: Path) -> None:
    record = _with_hidden_part(read_record(run, TRAIN_FILE, TrainRecord), "<b>hidden</b>")
    data = Path(record.data)
    first = next(photo for photo in record.photos if photo.part_id == "<b>hidden</b>")
    (data / first.file).rename(data / "line/<i>&.png")
    photos = tuple(p.model_copy(update={"file": "line/<i>&.png"}) if p is first else p for p in record.photos)
    (run / TRAIN_FILE).write_text(record.model_copy(update={"photos": photos}).model_dump_json())
    result = CliRunner().invoke(export, [str(run), "--bank-rows", "60"])
    assert result.exception is None, result.output
    assert "<b>hidden</b>: looks like line" in result.output
    page = (run / SUSPECTS_FILE).read_text(encoding="utf-8")
    assert "&lt;b&gt;hidden&lt;/b&gt;" in page
    assert page.count("line/&lt;i&gt;&amp;.png") == 2, "below the picture and in the list"
    assert "<b>hidden" not in page
    assert "<i>" not in page
    assert 'src="data:image/jpeg;base64,' in page
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page


def test_a_mislabelled_part_does_not_hide_its_kind_of_defect(trained: Path) -> None:
    """Parts of type line in the seeded run score nearly as high as with a bank without any line."""
    record = read_record(trained, TRAIN_FILE, TrainRecord)
    model = model_from_checkpoint(trained, record)
    clean, hidden = (
        build_memory_bank(model, one, 60, Console(quiet=True)) for one in (record, _with_hidden_part(record, "hidden"))
    )
    assert "hidden" in {suspect.part_id for suspect in hidden.suspects}

    def scores(made: MemoryBank, label: str) -> list[float]:
        photos = [photo for photo in record.photos if (photo.label, photo.role) == (label, "seed")]
        shown = [patches_from_photo(model, photo.model_copy(update={"mask": None}), record) for photo in photos]
        patches = [made.space.apply(one.features) for one in shown]
        return [score_from_distances(distances_to_rows(own, made.rows), counted_patches(len(own))) for own in patches]

    assert min(scores(hidden, "line")) > max(scores(hidden, GOOD))
    assert np.mean(scores(hidden, "line")) > 0.9 * np.mean(scores(clean, "line"))


def test_the_page_of_an_earlier_export_is_removed(exported: Path) -> None:
    page = exported / SUSPECTS_FILE
    assert not page.exists() or page.read_text() != OUTDATED
