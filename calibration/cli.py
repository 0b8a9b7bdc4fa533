"""`procunit calibrate`, `procunit seed run` and `procunit evaluate`."""

from __future__ import annotations

from pathlib import Path

import click

from calibration.calibrate import calibrate_run
from calibration.evaluate import evaluate_folder
from calibration.limits import parts_needed
from calibration.seeded import Targets, seeded_run
from calibration.tables import closing_lines, score_table, seeded_table, verdict_table
from edge.bundle.keys import signing_key_from_file, trusted_keys_from_files
from edge.bundle.manifest import NO_BUDGET, Budget
from edge.bundle.reader import Bundle, open_bundle
from edge.cli.trust import open_with_keys, signature_line, trust_options
from edge.errors import ProcunitError
from edge.policy import MAX_TARGET_FALSE_REJECT, MIN_TARGET_DETECTION
from edge.system.files import write_whole
from edge.terminal import Console, echo
from training.data.dataset import dataset_from_path

_data_option = click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR|CSV",
    help="The labelled photographs: a folder, or a CSV file of file, label and part_id.",
)


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--budget",
    "asked_rate",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="RATE",
    help="Share of good parts that may be flagged, such as 0.01.  [default: the smallest that the parts support]",
)
def calibrate(run: Path, asked_rate: float | None) -> None:
    """Set the thresholds of RUN from its held-out good parts, by one false-alarm budget for all scores.

    \b
    Examples:
      procunit calibrate run/
      procunit calibrate run/ --budget 0.01
    """
    record = calibrate_run(run, asked_rate)
    for line in budget_lines(record.budget, asked_rate):
        echo(line)
    for name, limit in record.types.items():
        echo(f"  {name}: flagged from {limit.threshold:.4f} on")
    if record.anomaly is not None:
        echo(f"  anomaly: flagged from {record.anomaly.threshold:.4f} on")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@_data_option
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The signing key that sealed BUNDLE.  [required]",
)
@click.option(
    "--target-detection",
    type=click.FloatRange(MIN_TARGET_DETECTION, 1, max_open=True),
    default=MIN_TARGET_DETECTION,
    show_default=True,
    help="Share of defect parts that a type must at least detect.",
)
@click.option(
    "--target-false-reject",
    type=click.FloatRange(0, MAX_TARGET_FALSE_REJECT, min_open=True),
    default=MAX_TARGET_FALSE_REJECT,
    show_default=True,
    help="Share of good parts that a type may at most reject.",
)
def seed_run(bundle: Path, data: Path, key: Path | None, target_detection: float, target_false_reject: float) -> None:
    """Test BUNDLE on its seeded parts, give authority to the types that earn it, and seal it again.

    A run on replayed photographs is simulated: it gives authority only in a bundle with a demo key.

    \b
    Examples:
      procunit seed run bundle/ --data parts/ --key run/demo-key.pem
      procunit seed run bundle/ --data parts/ --key factory.pem --target-detection 0.8
    """
    if key is None:
        raise ProcunitError(
            "no key was given to seal the bundle again",
            where=str(bundle),
            remedy="Name the key that sealed it with --key FILE; a demo bundle's is --key RUN/demo-key.pem",
        )
    signing_key = signing_key_from_file(key)
    opened = open_bundle(bundle, (signing_key.trusted,))
    targets = Targets(target_detection, target_false_reject)
    sealed = seeded_run(opened, dataset_from_path(data), signing_key, targets)
    Console().print(seeded_table(sealed.manifest.types, demo_key=signing_key.demo))
    echo(f"Sealed again as {sealed.bundle_id[:12]} with {signing_key.name}.")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@_data_option
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Figures as JSON."
)
@trust_options
def evaluate(
    bundle: Path, data: Path, json_file: Path | None, trust: tuple[Path, ...], demo_trust: tuple[Path, ...]
) -> None:
    """Inspect labelled photographs with BUNDLE through the on-device path; parts that it was made from are left out.

    Figures are by part: a part's score is the mean of its photographs' scores, its verdict their severest one.

    \b
    Examples:
      procunit evaluate bundle/ --data parts/ --json figures.json
      procunit evaluate bundle/ --data parts/ --json figures.json --demo-trust run/demo-key.pub
    """
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise ProcunitError("the folder for the figures does not exist", where=str(json_file.parent))
    content = open_with_keys(bundle, trusted_keys_from_files(trust, demo_trust))
    demo_key = content.signed_by.demo if isinstance(content, Bundle) else True
    evaluation = evaluate_folder(content, dataset_from_path(data), demo_key=demo_key)
    if json_file is not None:
        write_whole(json_file, (evaluation.model_dump_json(indent=1) + "\n").encode())
    console = Console()
    echo(f"Bundle {content.bundle_id[:12]}: {signature_line(content)}")
    echo(
        f"{evaluation.images} photographs of {evaluation.parts} parts; left out: {evaluation.skipped_images} "
        "photographs of parts that the bundle was made from"
    )
    console.print(score_table(evaluation))
    console.print(verdict_table(evaluation))
    for line in closing_lines(evaluation):
        echo(line)


def budget_lines(budget: Budget | None, asked_rate: float | None) -> list[str]:
    """The requested and the supported false-alarm budget, and how many parts the requested one would need."""
    if budget is None:
        return [f"False alarms: {NO_BUDGET}.", "Add photographs of good parts and train again."]
    lines = []
    if asked_rate is not None:
        lines.append(f"Budget asked: at most {asked_rate:.2%} of good parts flagged.")
    lines.append(f"Budget supported: {budget.in_words()}.")
    if asked_rate is not None and budget.false_alarm_rate > asked_rate:
        lines.append(
            f"The parts do not support this budget: {parts_needed(asked_rate)} held-out good parts are needed, there "
            f"are {budget.good_parts}. The smallest budget that they support is used."
        )
    return lines
