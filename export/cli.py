"""`procunit export` and `procunit bundle build`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge.bundle.keys import signing_key_from_file
from edge.bundle.reader import MAX_BANK_ROWS
from edge.terminal import Console, echo
from export.bundle_from_run import bundle_from_run
from export.report import SUSPECTS_FILE
from export.signing import demo_key_from_run

if TYPE_CHECKING:  # torch is slow to import, and building a bundle does not need it
    from export.bank.suspects import Suspect

DEFAULT_BANK_ROWS = 4096
SUSPECTS_PRINTED = 8


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--bank-rows",
    default=DEFAULT_BANK_ROWS,
    show_default=True,
    type=click.IntRange(1, MAX_BANK_ROWS),
    help="Rows of the memory bank, at most. More rows separate parts better and take more time per part.",
)
@click.option(
    "--int8", is_flag=True, help="Also write INT8 graphs; a device uses them only if they pass its golden frames."
)
@click.option("--separate", is_flag=True, help="Write classifier and anomaly scorer as two graphs instead of one.")
def export(run: Path, bank_rows: int, int8: bool, separate: bool) -> None:
    """Turn the checkpoint of RUN into ONNX graphs with both scorers, in FP32 and FP16, and their memory bank.

    The graphs are compared with PyTorch on training photographs. In FP32 a difference above 1e-3 is an error. In FP16
    and INT8 the difference is only printed; each device checks the golden frames before it uses these graphs.

    \b
    Examples:
      procunit export run/
      procunit export run/ --bank-rows 1024 --int8
      procunit export run/ --separate
    """
    from export.export import export_run  # noqa: PLC0415  (torch is slow to import; building a bundle does not need it)

    console = Console(stderr=True)
    exported = export_run(run, bank_rows, console, int8=int8, separate=separate)
    record = exported.record
    console.print(
        f"Graphs: ONNX opset {record.opset}. Largest difference from PyTorch on {record.parity_frames} frames:"
    )
    for precision, difference in record.differences.items():
        console.print(f"  {precision}: {difference.logits:.1e} (logits), {difference.distances:.1e} (distances)")
    bank = exported.bank
    console.print(
        f"Memory bank: {record.bank_rows} rows of {record.feature_size} features from {record.bank_parts} parts. "
        f"{bank.excluded_share:.1%} of the patches were excluded because they look like a defect. Every other patch is "
        f"within {bank.covering_radius:.3f} of a row"
        + (f" ({bank.subsampling_radius:.3f} of it from subsampling)" if bank.subsampling_radius else "")
    )
    _print_suspects(bank.suspects, run / SUSPECTS_FILE, console)
    console.print(f"Next: procunit calibrate {run}")


def _print_suspects(suspects: Sequence[Suspect], page: Path, console: Console) -> None:
    if not suspects:
        return
    console.print(f"Good parts that may be mislabelled; please check them in {page}:", style="yellow")
    for suspect in suspects[:SUSPECTS_PRINTED]:
        console.print(f"  {suspect.part_id}: {suspect.reason}")
    if len(suspects) > SUSPECTS_PRINTED:
        console.print(f"  and {len(suspects) - SUSPECTS_PRINTED} more")


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="BUNDLE", help="Directory to make.")
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Production signing key (Ed25519, PEM).  [default: a demo key made in RUN]",
)
@click.option("--product", metavar="NAME", help="Name of the product.  [default: the run's]")
@click.option("--version", type=click.IntRange(1), default=1, show_default=True, help="Version of the bundle.")
@click.option("--force", is_flag=True, help="Replace BUNDLE if it exists.")
def bundle_build(run: Path, out: Path, key: Path | None, product: str | None, version: int, force: bool) -> None:
    """Build a signed bundle from RUN. No defect type may reject parts before a seeded run has passed.

    \b
    Examples:
      procunit bundle build run/ --out bundle/
      procunit bundle build run/ --out bundle/ --key factory.pem --version 3
    """
    signing_key = demo_key_from_run(run) if key is None else signing_key_from_file(key)
    bundle = bundle_from_run(run, out, signing_key, product=product, version=version, replace=force)
    kind = "demo key" if signing_key.demo else "production key"
    echo(
        f"{bundle.manifest.product} version {bundle.manifest.version}, {bundle.bundle_id[:12]}: sealed in {out} "
        f"with the {kind} {signing_key.name}; {len(bundle.golden().frames)} golden frames"
    )
