"""The records that connect the offline stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.errors import ProcunitError
from training.data.run_files import EXPORT_FILE, Difference, ExportRecord, read_record, write_record

RECORD = ExportRecord(
    opset=18,
    bank_rows=10,
    feature_size=3,
    bank_parts=2,
    fold_of={"g1": 0},
    parity_frames=8,
    separate=False,
    differences={"fp32": Difference(logits=1e-6, distances=1e-6)},
)


def test_a_record_returns_as_it_was_written(tmp_path: Path) -> None:
    write_record(tmp_path, EXPORT_FILE, RECORD)
    assert read_record(tmp_path, EXPORT_FILE, ExportRecord) == RECORD
    assert [p.name for p in tmp_path.iterdir()] == [EXPORT_FILE]


def test_a_stage_that_has_not_run_names_its_command(tmp_path: Path) -> None:
    with pytest.raises(ProcunitError, match=r"`procunit export` first"):
        read_record(tmp_path, EXPORT_FILE, ExportRecord)


def test_a_damaged_record_names_file_and_key(tmp_path: Path) -> None:
    (tmp_path / EXPORT_FILE).write_text(RECORD.model_dump_json().replace('"opset":18', '"opset":"x"'))
    with pytest.raises(ProcunitError, match="opset") as caught:
        read_record(tmp_path, EXPORT_FILE, ExportRecord)
    assert EXPORT_FILE in str(caught.value)
