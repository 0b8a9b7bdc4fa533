"""Writes rendered parts into folders: a labelled dataset or a run of the line, complete or not at all."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from tools.line_simulator.defects import DEFECTS
from tools.line_simulator.part import GOOD, render_part
from tools.line_simulator.schedule import LinePart

DATASET_COLUMNS = ("file", "defect_type", "part_id", "mask")
LINE_COLUMNS = ("file", "part_id", "arrival_s", "truth")

_DATASET_STREAM, _LINE_STREAM = 1, 2
"""Random streams: a dataset and a line with the same seed have different parts."""


def dataset_photos(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Kind and number of every part of a dataset, good ones first."""
    return [(kind, number) for kind in (GOOD, *DEFECTS) for number in range(1, counts.get(kind, 0) + 1)]


def write_dataset(out: Path, seed: int, photos: Iterable[tuple[str, int]]) -> None:
    """Render `good/`, one folder per defect type, `masks/TYPE/` and `parts.csv`; one photograph per part.

    A part depends only on the seed, its kind and its number, so a larger dataset contains the smaller one.

    Raises:
        click.ClickException: `out` exists already.
    """
    kinds = (GOOD, *DEFECTS)
    with _whole_folder(out) as folder:
        rows = []
        for kind, number in photos:
            part = render_part((seed, _DATASET_STREAM, kinds.index(kind), number), kind)
            file, mask = f"{kind}/{kind}_{number:04d}.png", ""
            _write_png(folder / file, part.image_u8)
            if part.mask_u8 is not None:
                mask = f"masks/{file}"
                _write_png(folder / mask, part.mask_u8)
            rows.append((file, kind, f"{kind}-{number:04d}", mask))
        _write_csv(folder / "parts.csv", DATASET_COLUMNS, rows)


def write_line(out: Path, seed: int, parts: Iterable[LinePart]) -> None:
    """Render a run of the line: `images/` in order of arrival, and `line.csv` with arrival times and truth.

    Raises:
        click.ClickException: `out` exists already.
    """
    with _whole_folder(out) as folder:
        rows = []
        for part in parts:
            file = f"images/part_{part.number:05d}.png"
            _write_png(folder / file, render_part((seed, _LINE_STREAM, part.number), part.truth).image_u8)
            rows.append((file, f"line-{part.number:05d}", f"{part.arrival_s:.3f}", part.truth))
        _write_csv(folder / "line.csv", LINE_COLUMNS, rows)


@contextmanager
def _whole_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`, renamed to `out` at the end and removed after an error."""
    if out.exists():
        raise click.ClickException(f"{out}: exists already. Choose a new folder or remove this one")
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_png(path: Path, image_u8: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _, data = cv2.imencode(".png", image_u8, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    path.write_bytes(data.tobytes())


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
