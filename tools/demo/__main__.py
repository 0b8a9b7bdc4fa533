"""`python -m tools.demo`: runs the product's own commands step by step and prints each before it runs."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click

from edge.bundle.keys import trusted_key_from_file
from edge.bundle.manifest import REPORT
from edge.bundle.reader import open_bundle
from edge.cli.program import run_program
from edge.contract.payloads import Result
from edge.terminal import Console
from tools.demo.children import Children, Stopped
from tools.demo.line import LineSetup, run_line
from tools.demo.replay import ReplayPart, parts_from_run, read_replay_list, write_replay_list
from tools.demo.report import Report, print_report, write_report
from tools.demo.summary import delivery_of, distinct_results, false_alarms, rows_by_truth, stage_percentiles
from training.data.run_files import DEMO_KEY_FILE, DEMO_PUBLIC_KEY_FILE, TRAIN_FILE, TrainRecord, read_record

PARTS_SEED, LINE_SEED = 7, 8
LINE_PARTS = 120
RENDERED_PRODUCT = "bracket"
SUMMARY_FILE = "summary.json"
STEPS = 8
_MARKER_FILE = ".procunit-demo"
"""Marks a folder that the demonstration created and may therefore empty."""


@dataclass
class Demo:
    """The state of one demonstration: its options, folders and step counter."""

    children: Children
    console: Console
    out: Path
    data: Path | None
    rate: str
    backbone: str | None
    started: float
    step: int = 0

    @property
    def procunit(self) -> str:
        """The `procunit` command of the same virtual environment."""
        return str(Path(sys.executable).with_name("procunit"))

    @property
    def training_run(self) -> Path:
        """The RUN directory."""
        return self.out / "run"

    @property
    def bundle(self) -> Path:
        """The BUNDLE directory."""
        return self.out / "bundle"

    @property
    def public_key(self) -> Path:
        """The demo key that the device trusts."""
        return self.training_run / DEMO_PUBLIC_KEY_FILE

    def announce(self, title: str) -> None:
        """Print the heading of the next step with the time since the start."""
        self.step += 1
        minutes, seconds = divmod(round(time.monotonic() - self.started), 60)
        self.console.rule(f"{self.step}/{STEPS}  {title}  {minutes}:{seconds:02d}", align="left")

    def run(self, *arguments: str | Path) -> None:
        """Run a command to its end."""
        self.children.run([str(argument) for argument in arguments])


def demonstrate(demo: Demo) -> bool:
    """Run all steps; returns whether every trigger got exactly one result."""
    data = _prepare_photographs(demo)
    _build_bundle(demo, data)
    demo.announce("Inspection line")
    setup = _line_setup(demo)
    parts = read_replay_list(setup.replay_list)
    received = run_line(demo.children, demo.procunit, setup, len(parts))
    demo.announce("Summary")
    report = _report(demo, setup, parts, received)
    print_report(report, demo.console)
    write_report(report, demo.out / SUMMARY_FILE)
    return report.delivery.holds


def _prepare_photographs(demo: Demo) -> Path:
    """Return the folder of labelled photographs: the given one, or rendered parts."""
    demo.announce("Photographs")
    if demo.data is not None:
        demo.console.print(f"using the photographs in {demo.data}")
        return demo.data
    rendered = demo.out / "parts"
    demo.run(sys.executable, "-m", "tools.line_simulator", "dataset", "--out", rendered, "--seed", str(PARTS_SEED))
    return rendered


def _build_bundle(demo: Demo, data: Path) -> None:
    """Train, export, calibrate, build the bundle, and do the seeded run that gives defect types authority."""
    procunit, run, bundle = demo.procunit, demo.training_run, demo.bundle
    demo.announce("Train")
    options = ["--backbone", demo.backbone] if demo.backbone else []
    options += ["--product", RENDERED_PRODUCT] if demo.data is None else []
    demo.run(procunit, "train", "--data", data, "--out", run, *options)
    demo.announce("Export")
    demo.run(procunit, "export", run)
    demo.announce("Calibrate")
    demo.run(procunit, "calibrate", run)
    demo.announce("Bundle")
    demo.run(procunit, "bundle", "build", run, "--out", bundle)
    demo.run(procunit, "bundle", "verify", bundle, "--demo-trust", demo.public_key)
    demo.announce("Seeded run")
    if read_record(run, TRAIN_FILE, TrainRecord).types:
        demo.run(procunit, "seed", "run", bundle, "--data", data, "--key", run / DEMO_KEY_FILE)
    else:
        demo.console.print("no defect type was taught, so no part is rejected; the anomaly score sends parts to review")
    demo.run(procunit, "bundle", "show", bundle, "--demo-trust", demo.public_key)


def _report(demo: Demo, setup: LineSetup, parts: list[ReplayPart], received: list[Result]) -> Report:
    results = distinct_results(received)
    truth_of = {counter: part.truth for counter, part in enumerate(parts, start=1)}
    bundle = open_bundle(demo.bundle, (trusted_key_from_file(demo.public_key, demo=True),))
    return Report(
        delivery=delivery_of(received, len(parts)),
        triggers_from=f"rows of {setup.replay_list}",
        truths=rows_by_truth(results, truth_of),
        alarms=false_alarms(results, truth_of),
        budget=bundle.manifest.budget,
        latency=stage_percentiles(results),
        paths={
            "bundle": demo.bundle,
            "report": demo.bundle / REPORT,
            "frames": setup.state / "frames",
            "settings": setup.config,
            "figures": demo.out / SUMMARY_FILE,
        },
    )


def _line_setup(demo: Demo) -> LineSetup:
    """Render new parts, or list the photographs that training reserved for the seeded run."""
    folder = demo.out / "line"
    if demo.data is None:
        pace = [] if demo.rate == "max" else ["--parts-per-min", demo.rate]
        simulate = [sys.executable, "-m", "tools.line_simulator", "line", "--out", str(folder)]
        demo.run(*simulate, "--seed", str(LINE_SEED), "--parts", str(LINE_PARTS), *pace)
        rate: float | str = "max" if demo.rate == "max" else "listed"
    else:
        folder.mkdir()
        write_replay_list(folder / "line.csv", parts_from_run(demo.training_run, LINE_SEED))
        rate = "max" if demo.rate == "max" else float(demo.rate)
    return LineSetup(demo.out, demo.bundle, demo.public_key, folder / "line.csv", rate)


def prepare_folder(out: Path, data: Path | None) -> None:
    """Create the work folder, or empty one that an earlier demonstration created.

    Raises:
        click.ClickException: the folder contains other files, or the photographs.
    """
    if data is not None and data.resolve().is_relative_to(out.resolve()):
        raise click.ClickException(f"{out}: is emptied first, but contains the photographs. Choose another OUT=...")
    if out.is_dir() and any(out.iterdir()):
        if not (out / _MARKER_FILE).is_file():
            raise click.ClickException(
                f"{out}: contains files that are not from a demonstration. Choose another folder (OUT=...)"
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARKER_FILE).touch()


def check_rate(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Accept `max` or a number of parts per minute."""
    if value != "max" and not (value.replace(".", "", 1).isdecimal() and 0 < float(value) <= 60_000):
        raise click.BadParameter("give parts per minute, such as 120, or max")
    return value


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Labelled photographs: good/ and one folder per defect type.  [default: rendered parts]",
)
@click.option("--rate", callback=check_rate, default="120", help="Parts per minute on the line, or max.")
@click.option("--backbone", help="timm name of the network, such as efficientnet_b3.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="work/demo", help="Work folder.")
def main(data: Path | None, rate: str, backbone: str | None, out: Path) -> None:
    """Go from photographs to verdicts on an MQTT broker, with the product's own commands.

    \b
    Examples:
      python -m tools.demo
      python -m tools.demo --data photos/ --rate max
    """
    console = Console()

    def show_command(words: list[str]) -> None:
        command = shlex.join([Path(words[0]).name, *words[1:]])
        console.print(f"$ {command}", highlight=False, soft_wrap=True)

    prepare_folder(out, data)
    try:
        with Children(show_command) as children:
            passed = demonstrate(Demo(children, console, out, data, rate, backbone, time.monotonic()))
    except Stopped as stopped:
        console.print()
        console.print(f"stopped ({stopped}); nothing is left running")
        sys.exit(128 + stopped.number)
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    run_program(main, "demo")
