"""`procunit augment-preview`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from edge.dataset import GOOD, dataset_from_path
from edge.dataset_file import dataset_file_from_folder
from edge.errors import ProcunitError
from training.augment import types_varied_beyond_good
from training.cli import DEFAULT_INPUT_PX
from training.contact_sheet import contact_sheet, png_from_sheet
from training.features import checked_geometry


@click.command()
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path, resolve_path=True),
    help="Folder of good/ and one folder a type, or a CSV file.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="PNG file to write.")
@click.option(
    "--input-px", default=DEFAULT_INPUT_PX, show_default=True, type=click.IntRange(64, 2048), help="Side of the input."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of parts and views.")
def augment_preview(data: Path, out: Path, input_px: int, seed: int) -> None:
    """Show what the network will see of each label, before anything is taught.

    The sheet has two parts a label: the photograph as it is, and views of it as `augmentation` in dataset.yaml declares
    them, a file in the folder or beside the CSV. Whoever knows the defects can veto a view that the line could never
    make: an isotropic pore may lie at any angle, a scratch along the travel direction may not.

    \b
    Examples:
      procunit augment-preview --data parts/ --out sheet.png
      procunit augment-preview --data photos.csv --out sheet.png
      procunit augment-preview --data parts/ --out sheet.png --seed 1     other parts, other views
    """
    if input_px % 32:
        raise click.BadParameter("must be a multiple of 32", param_hint="--input-px")
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
    beyond = types_varied_beyond_good(dataset_file, dataset.types, geometry)
    if beyond:
        console.print(
            f"Note: {', '.join(beyond)}: varied in ways in which {GOOD} parts are not, so a network may tell them by "
            f"that alone. Give {GOOD} the widest settings of all types.",
            markup=False,
        )
    console.print(f"Wrote {out}", markup=False)
