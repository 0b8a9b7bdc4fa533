"""`procunit augment-preview`."""

from __future__ import annotations

from pathlib import Path

import click

from edge.errors import ProcunitError
from edge.terminal import Console
from training.augment import beyond_good_warning
from training.cli import data_option, input_px_option
from training.data.dataset import dataset_from_path
from training.data.dataset_yaml import dataset_file_from_folder
from training.features import checked_geometry
from training.report.contact_sheet import contact_sheet, png_from_sheet


@click.command()
@data_option
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="PNG file to write.")
@input_px_option
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of parts and views.")
def augment_preview(data: Path, out: Path, input_px: int, seed: int) -> None:
    """Show what the network will see of each label, before training.

    The sheet shows two parts per label: the photograph as it is, and views of it augmented as `augmentation` in
    dataset.yaml declares, a file in the folder or beside the CSV. Have it checked by someone who knows the defects, who
    can veto a view that the line could never produce: an isotropic pore may lie at any angle, a scratch along the
    travel direction may not.

    \b
    Examples:
      procunit augment-preview --data parts/ --out sheet.png
      procunit augment-preview --data photos.csv --out sheet.png
      procunit augment-preview --data parts/ --out sheet.png --seed 1     other parts, other views
    """
    console = Console(stderr=True)
    dataset = dataset_from_path(data)
    dataset_file = dataset_file_from_folder(dataset.root)
    dataset_file.check_labels(sorted({photo.label for photo in dataset.photos}))
    geometry = checked_geometry(dataset, input_px, console)
    png = png_from_sheet(contact_sheet(dataset.photos, dataset_file, geometry, seed))
    try:
        out.write_bytes(png)
    except OSError as error:
        raise ProcunitError(f"cannot be written: {error.strerror}", where=str(out)) from error
    beyond = beyond_good_warning(dataset_file, dataset.types, geometry)
    if beyond:
        console.print(f"Note: {beyond}")
    console.print(f"Wrote {out}")
