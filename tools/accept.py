"""Acceptance run on real photographs: the demonstration, the evaluation, and the overhead over bare ONNX Runtime.

    python -m tools.accept --data photographs/

Exits with 1 if a promise is broken. The figures replace the section between the markers in docs/measurements.md.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from edge.cli.program import run_program
from edge.terminal import echo

MEASUREMENTS = Path(__file__).parents[1] / "docs" / "measurements.md"
BEGIN, END = "<!-- accept: begin -->", "<!-- accept: end -->"


def _run(*arguments: str | Path) -> float:
    """Run a command to its end; returns its duration in seconds."""
    started = time.monotonic()
    subprocess.run([str(a) for a in arguments], check=True)
    return time.monotonic() - started


def _figures(path: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return figures


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _interval(pair: list[float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.2f} to {pair[1]:.2f}"


def section(data: Path, seconds: float, line: dict[str, Any], evaluation: dict[str, Any], path: dict[str, Any]) -> str:
    """The section for docs/measurements.md, in Markdown."""
    day = datetime.datetime.now(datetime.timezone.utc).date()
    delivery = line["delivery"]
    rows = [
        f"Measured on {day} by `make accept DATA=.../{data.resolve().name}` ({os.cpu_count()} cores, "
        f"{platform.machine()}, Python {platform.python_version()}); photographs to verdicts took {seconds:.0f} s.",
        "",
        f"* Triggers {delivery['triggers']}, distinct results {delivery['results']}, "
        f"missing {len(delivery['missing'])}, doubled after deduplication {len(delivery['doubled'])}.",
        f"* Frame in memory to verdict: p50 {path['path_ms']['p50']:.1f} ms, bare ONNX Runtime call on the same graph "
        f"{path['bare_ms']['p50']:.1f} ms ({path['blocks']} alternating blocks of {path['frames_a_block']} frames, "
        f"bank of {path['bank_rows']} rows): {path['above_bare_ms']:+.2f} ms, allowed {path['allowed_ms']:.1f} ms.",
        f"* {evaluation['parts']} parts in {evaluation['images']} photographs unseen by training and calibration "
        f"({evaluation['skipped_images']} skipped); same verdict on all photographs of a part: "
        f"{_share(evaluation['within_part_agreement'])}; AUC of the image size alone: "
        f"{_share(evaluation['size_only_auc'])}.",
        f"* Anomaly score, all defects, AUC by part: {_share(evaluation['anomaly']['auc'])} "
        f"(95 % interval {_interval(evaluation['anomaly']['auc_ci95'])}). Escapes at 1 % / 5 % false alarms: "
        + " / ".join(_share(evaluation["at_false_alarm"][k]["escape_rate"]) for k in ("0.01", "0.05"))
        + ".",
        "",
        "| type | parts | photographs | head AUC by part (95 %) | anomaly AUC by part |",
        "|---|---|---|---|---|",
    ]
    for name, kind in evaluation["types"].items():
        rows.append(
            f"| {name} | {kind['parts']} | {kind['images']} | {_share(kind['head_auc'])} "
            f"({_interval(kind['head_auc_ci95'])}) | {_share(kind['anomaly_auc'])} |"
        )
    return "\n".join(rows)


def replaced(text: str, new: str) -> str:
    """`text` with the section between the markers replaced by `new`."""
    before, rest = text.split(BEGIN, maxsplit=1)
    _, after = rest.split(END, maxsplit=1)
    return f"{before}{BEGIN}\n{new}\n{END}{after}"


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True, file_okay=False), required=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="work/accept", show_default=True)
def main(data: Path, out: Path) -> None:
    """Run all steps on a labelled folder and write the figures into docs/measurements.md."""
    python, procunit = sys.executable, Path(sys.executable).with_name("procunit")
    bundle, evaluation, path = out / "bundle", out / "evaluation.json", out / "path.json"
    try:
        seconds = _run(python, "-m", "tools.demo", "--data", data, "--rate", "max", "--out", out)
        _run(procunit, "evaluate", bundle, "--data", data, "--json", evaluation)
        _run(python, "-m", "tools.benchmarks.path", bundle, "--data", data, "--json", path)
    except subprocess.CalledProcessError as error:
        command = " ".join(error.cmd[:3])
        raise click.ClickException(f"`{command}` failed with exit status {error.returncode}; see above") from error
    text = section(data, seconds, _figures(out / "summary.json"), _figures(evaluation), _figures(path))
    MEASUREMENTS.write_text(replaced(MEASUREMENTS.read_text(encoding="utf-8"), text), encoding="utf-8")
    echo()
    echo(f"accept: passed; the figures are in {MEASUREMENTS}")


if __name__ == "__main__":
    run_program(main, "accept")
