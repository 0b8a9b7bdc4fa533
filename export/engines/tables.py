"""Prints comparisons and benchmarks of engines as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table

from edge.engine.settings import EngineKind
from export.engines.bench import BLOCK_S, Bench, Latency, NetworkFigures
from export.engines.compare import Comparison, Variant

RUNTIME_NAMES: Mapping[EngineKind, str] = {
    "ort": "ONNX Runtime, CPU",
    "tensorrt": "TensorRT",
    "tensorrt_rtx": "TensorRT for RTX",
}
_NAMED_PARTS = 10


def compare_table(found: Comparison) -> Table:
    """One row per variant: size, gate, worst drift in spreads, flips against FP32, latency and memory taken."""
    gpu = any(variant.gpu_mb is not None for variant in found.variants)
    headings = ["MB", "drift", "golden\nflips", "parts\nflipped", "of\n1000", "p50\nms", "p99\nms", "RSS\nMB"]
    table = Table("Variant", "Gate", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for heading in headings + ["GPU\nMB"] * gpu:
        table.add_column(heading, justify="right")
    for column in table.columns:
        column.no_wrap = True
    for variant in found.variants:
        name, gate = f"{variant.precision} {variant.kind}", "passed" if variant.passed else "failed"
        figures = [f"{variant.size_bytes / 1e6:.1f}", *_figures(variant, found.parts)]
        table.add_row(name, gate, *figures[: len(table.columns) - 2])
    return table


def compare_lines(found: Comparison, absent: Mapping[EngineKind, str]) -> list[str]:
    """What does not fit into the table: the drift of every score, flipped parts, failures, unavailable runtimes."""
    photos = f"{found.photos} photographs of {found.parts} parts" if found.photos else "no photographs (--data DIR)"
    lines = [
        f"drift: largest on the golden frames, in spreads on good parts; parts flipped: verdicts in {photos} that "
        "differ from fp32; of 1000: flips predicted from the calibration scores"
    ]
    for variant in found.variants:
        name = f"{variant.precision}, {RUNTIME_NAMES[variant.kind]}"
        if variant.problem is not None:
            lines.append(f"{name}: {variant.problem}")
            continue
        lines.append(f"{name}: {variant.gate}")
        drifts = ", ".join(f"{score} {drift:.2g}" for score, drift in variant.worst_drifts.items())
        lines.append(f"  largest drift of each score, in spreads: {drifts}")
        if variant.flipped_parts:
            named = ", ".join(variant.flipped_parts[:_NAMED_PARTS])
            more = len(variant.flipped_parts) - _NAMED_PARTS
            lines.append(f"  parts that flip: {named}{f' and {more} more' if more > 0 else ''}")
    lines += [f"{RUNTIME_NAMES[kind]}: not available, {reason}" for kind, reason in absent.items()]
    return lines


def bench_table(found: Bench) -> Table:
    """One row per network and bank size; times in milliseconds."""
    resident = any(bank.engine.resident is not None for bank in found.banks)
    headings = ("p50", "p99", "in 1 s", *(("p50, no copies", "p99, no copies") if resident else ()))
    table = Table("Bank rows", "Network", box=box.SIMPLE)
    for heading in (*headings, "W", "times bare"):
        table.add_column(heading, justify="right")
    for bank in found.banks:
        ratio = bank.ratio_resident or bank.ratio_copied
        ours = (_number(bank.power_w, 1), _number(ratio, 3))
        table.add_row(str(bank.bank_rows), "both scorers", *_times(bank.engine), *ours)
        if bank.bare is not None:
            table.add_row("", "bare", *_times(bank.bare), "", "1")
    return table


def bench_lines(found: Bench, bundle_rows: int) -> list[str]:
    """The conditions of a benchmark, and what was not measured."""
    gpu = f" on {found.gpu}" if found.runtime != "ort" else ""
    lines = [
        f"{RUNTIME_NAMES[found.runtime]} {found.version}{gpu}, {found.precision}; one part at a time, {found.tiles} "
        f"tile{'s' if found.tiles > 1 else ''} each; times in ms, from host memory to host memory",
        f"Memory taken: {found.host_mb:.0f} MB of host memory"
        + ("" if found.gpu_mb is None else f", {found.gpu_mb:.0f} MB of GPU memory"),
    ]
    if found.runtime == "ort":
        lines.append("On a CPU there are no copies to leave out.")
    if any(bank.bank_rows != bundle_rows for bank in found.banks):
        lines.append(f"The bundle's bank has {bundle_rows} rows; smaller ones are part of it, larger ones repeat it.")
    if all(bank.power_w is None for bank in found.banks):
        lines.append("Power was not measured: this machine has no readable power sensor.")
    if found.bare is not None:
        lines.append(f"Bare: {found.bare}; the ratio is the median over alternating blocks of {BLOCK_S:g} s.")
    else:
        lines.append(
            "Not compared with the bare backbone. Make its graph where the offline extra is installed: "
            "procunit engine bare BUNDLE --out bare.onnx; then add --bare bare.onnx"
        )
    return lines


def _figures(variant: Variant, parts: int) -> list[str]:
    if variant.problem is not None:
        return ["-"] * 8
    rate, latency = variant.predicted_flip_rate, variant.latency
    return [
        f"{max(variant.worst_drifts.values(), default=float('nan')):.2g}",
        str(variant.golden_flips),
        str(len(variant.flipped_parts)) if parts else "-",
        f"{1000 * rate:.2g}" if rate is not None else "-",
        _number(latency.p50_ms if latency else None, 1),
        _number(latency.p99_ms if latency else None, 1),
        _number(variant.host_mb, 0),
        _number(variant.gpu_mb, 0),
    ]


def _times(timed: NetworkFigures) -> list[str]:
    resident = _pair(timed.resident) if timed.resident is not None else ()
    return [*_pair(timed.copied), f"{timed.per_s:.1f}", *resident]


def _pair(latency: Latency) -> tuple[str, str]:
    return f"{latency.p50_ms:.2f}", f"{latency.p99_ms:.2f}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
