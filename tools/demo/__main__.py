"""`python -m tools.demo`: every step is a command of the product, printed before it runs."""

from __future__ import annotations

import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape

from edge.bundle.keys import trusted_key_from_file
from edge.bundle.manifest import REPORT
from edge.bundle.reader import open_bundle
from edge.contract.payloads import Result
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
_MARK = ".procunit-demo"
"""In a folder that the demonstration made, and may therefore empty."""


@dataclass
class Demo:
    """One demonstration: its folders and its step counter."""

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
        """The product's command, from the same virtual environment."""
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
        """Head a numbered step with the time since the start."""
        self.step += 1
        minutes, seconds = divmod(round(time.monotonic() - self.started), 60)
        self.console.rule(f"[bold]{self.step}/{STEPS}  {title}[/bold]  {minutes}:{seconds:02d}", align="left")

    def run(self, *arguments: str | Path) -> None:
        """Run a command to its end."""
        self.children.run([str(argument) for argument in arguments])


def demonstrate(demo: Demo) -> bool:
    """All steps; returns whether every trigger got exactly one result."""
    data = _prepare_parts(demo)
    _teach(demo, data)
    demo.announce("The line")
    setup = _line_setup(demo)
    parts = read_replay_list(setup.replay_list)
    received = run_line(demo.children, demo.procunit, setup, len(parts))
    demo.announce("Summary")
    report = _report(demo, setup, parts, received)
    print_report(report, demo.console)
    write_report(report, demo.out / SUMMARY_FILE)
    return report.delivery.holds


def _prepare_parts(demo: Demo) -> Path:
    """The labelled photographs: given, or rendered."""
    demo.announce("Parts")
    if demo.data is not None:
        demo.console.print(f"photographs of {demo.data}")
        return demo.data
    rendered = demo.out / "parts"
    demo.run(sys.executable, "-m", "tools.line_simulator", "dataset", "--out", rendered, "--seed", str(PARTS_SEED))
    return rendered


def _teach(demo: Demo, data: Path) -> None:
    """Photographs to a sealed bundle with the authority that it has earned."""
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
        demo.console.print("no defect type was taught, so none can earn authority: the anomaly score sends to review")
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
        places={
            "bundle": demo.bundle,
            "report": demo.bundle / REPORT,
            "frames": setup.state / "frames",
            "settings": setup.config,
            "figures": demo.out / SUMMARY_FILE,
        },
    )


def _line_setup(demo: Demo) -> LineSetup:
    """Render fresh parts, or list the photographs that training set aside."""
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
    """Make the work folder, or empty one that an earlier demonstration made.

    Raises:
        click.ClickException: it holds something else, or the photographs.
    """
    if data is not None and data.resolve().is_relative_to(out.resolve()):
        raise click.ClickException(f"{out}: is emptied first, and holds the photographs. Name another folder (OUT=...)")
    if out.is_dir() and any(out.iterdir()):
        if not (out / _MARK).is_file():
            raise click.ClickException(f"{out}: holds files that no demonstration made. Name another folder (OUT=...)")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).touch()


def check_rate(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """`max`, or parts a minute."""
    if value != "max" and not (value.replace(".", "", 1).isdecimal() and 0 < float(value) <= 60_000):
        raise click.BadParameter("give parts a minute, such as 120, or max")
    return value


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Labelled photographs: good/ and one folder a defect type.  [default: rendered parts]",
)
@click.option("--rate", callback=check_rate, default="120", help="Parts a minute on the line, or max.")
@click.option("--backbone", help="Network, by its timm name, such as efficientnet_b3.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="work/demo", help="Work folder.")
def main(data: Path | None, rate: str, backbone: str | None, out: Path) -> None:
    """From photographs to verdicts on a broker: everything, by the product's own commands.

    \b
    Examples:
      python -m tools.demo
      python -m tools.demo --data photos/ --rate max
    """
    console = Console()

    def show_command(words: list[str]) -> None:
        command = shlex.join([Path(words[0]).name, *words[1:]])
        console.print(f"[bold]$[/bold] {escape(command)}", highlight=False, soft_wrap=True)

    prepare_folder(out, data)
    try:
        with Children(show_command) as children:
            kept = demonstrate(Demo(children, console, out, data, rate, backbone, time.monotonic()))
    except Stopped as stopped:
        console.print(f"\nstopped ({stopped}); nothing is left running")
        sys.exit(128 + stopped.number)
    sys.exit(0 if kept else 1)


if __name__ == "__main__":
    main()
