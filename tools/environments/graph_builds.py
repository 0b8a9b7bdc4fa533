"""Graphs of every precision and form, exported in one environment and built by TensorRT in another.

`write` needs the development environment (torch); `build` needs the device's packages and a TensorRT for RTX.
"""

from __future__ import annotations

import time
from pathlib import Path

import click

from edge.bundle.manifest import PRECISIONS
from edge.cli.program import run_program
from edge.engine.trt_library import TensorRT, library_from_kind
from edge.errors import ProcunitError
from edge.terminal import echo
from export.engines.build_monitor import BuildTracker
from export.engines.engine_from_onnx import build_engine

TILES = 2
_TYPES, _CHANNELS = 2, 1


@click.group()
def main() -> None:
    """Write graphs of every precision and form, and build engines of them."""


@main.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def write(directory: Path) -> None:
    """Export a small network in every precision, fused and separate, with and without defect types."""
    from tests.export.graphs import make_graph  # noqa: PLC0415  (needs torch, which the build environment lacks)

    for types in (0, _TYPES):
        folder = directory / f"{types}-types"
        folder.mkdir(parents=True, exist_ok=True)
        made = make_graph(folder, types, _CHANNELS)
        for precision in PRECISIONS:
            for separate in (False, True) if types else (False,):
                made.paths(precision, separate=separate)


@main.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
def build(directory: Path) -> None:
    """Build an engine of every graph below DIRECTORY; exit with 1 if one cannot be built."""
    library = library_from_kind("tensorrt_rtx")
    echo(f"{library.name} {library.version}: parsed and built on the CPU, {TILES} tiles, the bank free in its rows")
    failed = 0
    for graph in sorted(directory.rglob("*.onnx")):
        name, started_s = graph.relative_to(directory), time.monotonic()
        if library.version.startswith("1.4.") and ".int8." in graph.name:
            parsed = _parses(graph, library)
            failed += not parsed
            echo(f"{name}: {'parsed; 1.4 builds no INT8 convolution at all' if parsed else 'FAILED to parse'}")
            continue
        try:
            plan = build_engine(graph, library, tiles=TILES, timing=b"", tracker=BuildTracker()).plan
        except ProcunitError as error:
            failed += 1
            echo(f"{name}: FAILED: {error}")
        else:
            echo(f"{name}: {time.monotonic() - started_s:.1f} s, {len(plan) / 1e6:.1f} MB")
    if failed:
        raise SystemExit(1)


def _parses(graph: Path, library: TensorRT) -> bool:
    trt = library.module
    network = trt.Builder(library.logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    return bool(trt.OnnxParser(network, library.logger).parse(graph.read_bytes()))


if __name__ == "__main__":
    run_program(main, "graph_builds")
