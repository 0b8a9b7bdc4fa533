"""`procunit train`."""

from __future__ import annotations

from pathlib import Path

import click
from rich import box
from rich.table import Table

from edge.bundle.manifest import GOOD
from edge.preprocess import areas_in_words
from edge.terminal import Console
from training.fit import Plan
from training.report.run_report import REPORT_FILE
from training.train import Trained, TrainSettings
from training.train import train as run_training

DEFAULT_BACKBONE, DEFAULT_INPUT_PX = "efficientnet_b3", 384


def _multiple_of_32(_: click.Context, __: click.Parameter, input_px: int) -> int:
    if input_px % 32:
        raise click.BadParameter("must be a multiple of 32", param_hint="--input-px")
    return input_px


data_option = click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path, resolve_path=True),
    help="Folder with good/ and one folder per defect type, or a CSV file.",
)
input_px_option = click.option(
    "--input-px",
    default=DEFAULT_INPUT_PX,
    show_default=True,
    type=click.IntRange(64, 2048),
    callback=_multiple_of_32,
    help="Side of the input.",
)


@click.command()
@data_option
@click.option("--out", required=True, type=click.Path(path_type=Path, resolve_path=True), help="RUN directory to make.")
@click.option("--backbone", default=DEFAULT_BACKBONE, show_default=True, help="The trunk's name in timm.")
@click.option("--weights", type=click.Path(path_type=Path), help="The backbone's weights (safetensors or torch file).")
@click.option("--product", help="The product's name; the data folder's name if not given.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of every draw.")
@input_px_option
@click.option("--seeded", type=click.Path(path_type=Path), help="Earlier RUN whose seeded parts stay out of training.")
@click.option(
    "--fine-tune/--frozen", default=False, show_default=True, help="Tune the network's last stages, or only the head."
)
@click.option(
    "--loo",
    type=click.Choice(["head", "full"]),
    default="head",
    show_default=True,
    help="What each held-out part is left out of: the head's fit, or the whole fine-tuning (slow).",
)
@click.option("--force", is_flag=True, help="Replace an earlier run at RUN.")
def train(
    data: Path,
    out: Path,
    backbone: str,
    weights: Path | None,
    product: str | None,
    seed: int,
    input_px: int,
    seeded: Path | None,
    fine_tune: bool,
    loo: str,
    force: bool,
) -> None:
    """Train on photographs of a product, split by part.

    A folder holds good/ and one folder per defect type (either may be the only one), optionally masks/TYPE/ with one
    PNG per photograph. A CSV has the columns file and label (good or the type), optionally part_id and mask; its paths
    are relative to the CSV's folder. Some of the parts are held out to calibrate and to validate the result.

    Photographs of one part belong together: name the part in the CSV, in the folder's parts.csv (file,part_id), or by
    part_id_pattern in dataset.yaml, a regular expression such as '(?P<part>T[0-9]+)_' that finds it in the file's name.

    Two more files say which areas of a frame are inspected, if not all: ignored.png, painted over a photograph, white
    where nothing is inspected and black elsewhere; and geometry.yaml with any of regions (each becomes a tile),
    ignored (polygons) and mm_per_px, in fractions of the frame. Both become part of the bundle.

    \b
    Examples:
      procunit train --data parts/ --out run/
      procunit train --data photos.csv --out run/
      procunit train --data parts/ --out run/ --weights b3.safetensors --product bracket
      procunit train --data parts/ --out run/ --backbone tf_efficientnet_lite2 --seed 7 --force
      procunit train --data parts/ --out run/ --fine-tune --loo full
      procunit train --data more-parts/ --out run2/ --seeded run/
    """
    console = Console(stderr=True)
    if loo == "full" and not fine_tune:
        raise click.BadParameter("full needs --fine-tune: it fine-tunes without each part in turn", param_hint="--loo")
    plan = Plan(fine_tune, full=loo == "full")
    settings = TrainSettings(data, out, backbone, weights, product, seeded, plan, seed, input_px, force)
    trained = run_training(settings, console)
    _print_summary(trained, out, console)


def _print_summary(trained: Trained, out: Path, console: Console) -> None:
    record = trained.record
    geometry = record.geometry
    console.print(
        f"{record.product}: {record.backbone} ({record.weights}), input {geometry.input_width_px} x "
        f"{geometry.input_height_px} px, {'grey' if geometry.channels == 1 else 'colour'}"
    )
    console.print(f"Inspected: {areas_in_words(geometry)}")
    table = Table(
        box=box.SIMPLE,
        caption="train, cal., seeded: parts. AUC by part from cross-validation, with 95 % confidence interval",
        caption_justify="left",
    )
    for column in ("", "photos", "parts", "train", "cal.", "seeded", "AUC"):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for label in (GOOD, *record.types):
        photos = [photo for photo in record.photos if photo.label == label]
        parts = {photo.part_id: photo.role for photo in photos}
        sides = list(parts.values())
        auc = trained.findings.accuracy.get(label)
        table.add_row(
            label,
            str(len(photos)),
            str(len(parts)),
            *(str(sides.count(role)) for role in ("train", "calibrate", "seed")),
            f"{auc.auc:.3f} [{auc.low:.2f}, {auc.high:.2f}]" if auc else "-",
        )
    console.print(table)
    for note in trained.findings.notes:
        console.print(f"Note: {note}")
    console.print(f"Report: {out / REPORT_FILE}")
    console.print(f"Next: procunit export {out}")
