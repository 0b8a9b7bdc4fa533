"""`procunit engine compare`, `procunit engine bench` and `procunit engine bare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import click
from pydantic import BaseModel

from edge.bundle.keys import trusted_keys_from_files
from edge.bundle.manifest import PRECISIONS, Precision
from edge.bundle.reader import MAX_BANK_ROWS, BundleContent
from edge.cli.trust import open_with_keys, signature_line, trust_options
from edge.engine.protocol import EngineError
from edge.engine.settings import EngineKind
from edge.errors import ProcunitError
from edge.system.files import write_whole
from edge.terminal import Console, echo
from export.engines.bare_engine import HOW_TO_MAKE_BARE_GRAPH
from export.engines.bench import bench_bundle
from export.engines.command_line import cache_option, job_with_progress_bar
from export.engines.compare import compare as compare_variants
from export.engines.compare import subject_of
from export.engines.runtimes import (
    best_runtime,
    precision_to_run,
    runtimes_on_this_machine,
    why_unavailable,
)
from export.engines.tables import bench_lines, bench_table, compare_lines, compare_table
from training.data.dataset import dataset_from_path

_DIRECTORY = click.Path(path_type=Path)
_FILE = click.Path(path_type=Path, dir_okay=False)
_threads_option = click.option(
    "--threads", type=click.IntRange(0, 256), default=0, help="Threads of ONNX Runtime.  [default: one per core]"
)
_json_option = click.option("--json", "json_file", type=_FILE, metavar="FILE", help="Also write the figures as JSON.")


def _rows_from_text(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        rows = tuple(int(number) for number in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1024,4096") from None
    if not all(1 <= number <= MAX_BANK_ROWS for number in rows):
        raise click.BadParameter(f"a bank has 1 to {MAX_BANK_ROWS} rows")
    return rows


@click.command(name="compare")
@click.argument("bundle", type=_DIRECTORY)
@click.option("--data", type=_DIRECTORY, metavar="DIR|CSV", help="Labelled photographs to check for flipped verdicts.")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    help="The precision whose golden frames decide the exit status.  [default: fp16 on a GPU, else fp32]",
)
@_threads_option
@cache_option
@_json_option
@trust_options
def compare(
    bundle: Path,
    data: Path | None,
    precision: Precision | None,
    threads: int,
    cache: Path,
    json_file: Path | None,
    trust: tuple[Path, ...],
    demo_trust: tuple[Path, ...],
) -> None:
    """Run all precisions of BUNDLE on every runtime of this machine and show them side by side.

    Each must reproduce the golden frames, and its verdicts are compared with those of FP32. TensorRT engines are built
    first. The exit status is 1 if the precision that would run fails the golden frames.

    \b
    Examples:
      procunit engine compare bundle/
      procunit engine compare bundle/ --data parts/ --json figures.json --demo-trust run/demo-key.pub
    """
    _check_folder(json_file)
    content = open_with_keys(bundle, trusted_keys_from_files(trust, demo_trust))
    photos = () if data is None else dataset_from_path(data).photos
    absent = {kind: reason for kind, reason in runtimes_on_this_machine().items() if reason is not None}
    kinds = [kind for kind in get_args(EngineKind) if kind not in absent]
    wanted = precision or precision_to_run(best_runtime(), content)
    variants = [(kind, p) for kind in kinds for p in content.precisions]
    with job_with_progress_bar(cache) as job:
        found = compare_variants(subject_of(content, photos), variants, job, threads)
    echo(f"Bundle {content.bundle_id[:12]}: {signature_line(content)}")
    Console().print(compare_table(found))
    for line in compare_lines(found, absent):
        echo(line)
    _write_json(json_file, found)
    decisive = [variant for variant in found.variants if variant.precision == wanted]
    if not decisive or not all(variant.passed for variant in decisive):
        echo(f"{wanted} would run, but it does not pass the golden frames on every runtime.")
        sys.exit(1)


@click.command(name="bench")
@click.argument("bundle", type=_DIRECTORY)
@click.option(
    "--kind", type=click.Choice(get_args(EngineKind)), help="The runtime.  [default: the best that works here]"
)
@click.option(
    "--precision", type=click.Choice(PRECISIONS), help="The bundle's graphs.  [default: fp16 on a GPU, else fp32]"
)
@click.option(
    "--bank-rows", callback=_rows_from_text, metavar="N,...", help="Sizes of the bank.  [default: the bundle's own]"
)
@click.option("--bare", type=_FILE, metavar="ONNX", help="Bare backbone to compare with; made by procunit engine bare.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 3600),
    default=10.0,
    show_default=True,
    help="How long to measure at each size of the bank.",
)
@_threads_option
@cache_option
@_json_option
@trust_options
def bench(
    bundle: Path,
    kind: EngineKind | None,
    precision: Precision | None,
    bank_rows: tuple[int, ...] | None,
    bare: Path | None,
    seconds: float,
    threads: int,
    cache: Path,
    json_file: Path | None,
    trust: tuple[Path, ...],
    demo_trust: tuple[Path, ...],
) -> None:
    """Measure BUNDLE's engine: latency, throughput, memory and power, against the bare backbone in the same run.

    A bank smaller than the bundle's is part of its rows. A larger one repeats them with a little noise; it takes the
    same time as a real bank of that size.

    \b
    Examples:
      procunit engine bench bundle/ --bare bare.onnx
      procunit engine bench bundle/ --precision fp16 --bank-rows 1024,4096,16384 --bare bare.onnx --json bench.json
    """
    _check_folder(json_file)
    content = open_with_keys(bundle, trusted_keys_from_files(trust, demo_trust))
    runtime = kind or best_runtime()
    reason = why_unavailable(runtime)
    if reason is not None:
        raise ProcunitError(f"{runtime} does not job here: {reason}", remedy="Choose another with --kind")
    chosen = precision or precision_to_run(runtime, content)
    _check_precision(content, chosen)
    if bare is not None and not bare.is_file():
        raise ProcunitError(
            "the file of the bare backbone does not exist",
            where=str(bare),
            remedy=HOW_TO_MAKE_BARE_GRAPH,
        )
    rows = bank_rows or (len(content.bank()),)
    with job_with_progress_bar(cache) as job:
        try:
            found = bench_bundle(content, runtime, chosen, bare, rows, seconds, threads, job)
        except EngineError as error:
            raise ProcunitError(str(error), where=str(bundle), remedy="Close other programs on the GPU") from error
    Console().print(bench_table(found))
    for line in bench_lines(found, len(content.bank())):
        echo(line)
    _write_json(json_file, found)


@click.command(name="bare")
@click.argument("bundle", type=_DIRECTORY)
@click.option("--out", required=True, type=_FILE, metavar="ONNX", help="File to write.")
@click.option("--backbone", metavar="NAME", help="timm's name of another backbone.  [default: BUNDLE's]")
@click.option(
    "--precision",
    type=click.Choice(["fp16", "fp32"]),
    default="fp16",
    show_default=True,
    help="Precision of the backbone; use that of the engine you compare with.",
)
def bare_command(bundle: Path, out: Path, backbone: str | None, precision: str) -> None:
    """Write BUNDLE's backbone alone as ONNX, the baseline of `procunit engine bench`; needs the offline extra.

    It is timm's complete ImageNet classifier at the bundle's input size. The weights are random, because time does not
    depend on them.

    \b
    Examples:
      procunit engine bare bundle/ --out bare.onnx
      procunit engine bare bundle/ --out bare.fp32.onnx --precision fp32 --backbone efficientnet_b3
    """
    from export.engines.bare_graph import bare_graph  # noqa: PLC0415  (needs torch, which a device lacks)

    _check_folder(out)
    content = open_with_keys(bundle, ())
    name = backbone or content.manifest.provenance.backbone
    bare_graph(name, content.manifest.geometry, "fp16" if precision == "fp16" else "fp32", out)
    echo(f"{out}: bare {name} in {precision}, {out.stat().st_size / 1e6:.1f} MB")


def _check_precision(content: BundleContent, precision: Precision) -> None:
    if precision not in content.precisions:
        raise ProcunitError(
            f"the bundle has no {precision} graphs, only {', '.join(content.precisions)}", where=str(content.path)
        )


def _check_folder(file: Path | None) -> None:
    if file is not None and not file.absolute().parent.is_dir():
        raise ProcunitError("the folder for the file does not exist", where=str(file.parent))


def _write_json(path: Path | None, figures: BaseModel) -> None:
    """Write the figures as JSON, complete or not at all."""
    if path is not None:
        write_whole(path, (figures.model_dump_json(indent=1) + "\n").encode())
