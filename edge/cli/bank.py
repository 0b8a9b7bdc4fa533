"""`procunit bank add`, `bank undo` and `bank show`."""

from __future__ import annotations

import getpass
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from edge.bank.delta import Source, keys_for_bank
from edge.bank.evidence import evidence_from_bundle
from edge.bank.frames import (
    PatchesGraph,
    PinnedFrame,
    defects_of_device,
    good_frames,
    pinned_frames,
    type_scores_of_files,
    unknown_view_text,
)
from edge.bank.growth import Bounds, GoodFrame, GrownBank, Growth, grow, own_bank
from edge.bank.store import BankStore
from edge.bundle.keys import SigningKey, TrustedKey, signing_key_from_file, trusted_keys_from_files
from edge.bundle.manifest import GOOD, ScoreLimit
from edge.bundle.reader import Bundle, open_bundle
from edge.cli.bank_frames import frame_name, hash_of_good, labels_text, view_of_file
from edge.cli.options import config_option
from edge.config.file import settings_from_file
from edge.config.settings import Settings
from edge.contract.encoding import clean_text
from edge.errors import ProcunitError
from edge.frames.stored import PINNED
from edge.image_file import read_image
from edge.plain_text import plain
from edge.state_dir import FRAMES_FOLDER
from edge.terminal import Console, echo


@dataclass(frozen=True)
class _Device:
    """What the commands need of a device: settings, bundle, keys that may sign its bank, versions of the bank."""

    settings: Settings
    bundle: Bundle
    keys: tuple[TrustedKey, ...]
    store: BankStore


@click.command()
@config_option("Settings of the device.")
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="KEY",
    help="Private key whose public half the settings name under bundle.bank_keys.",
)
@click.option("--part", "parts", multiple=True, metavar="ID", help="A part whose frames are labelled good.")
@click.option("--result", "results", multiple=True, metavar="ID", help="A result whose frame is labelled good.")
@click.option("--yes", is_flag=True, help="Do not ask before the bank is put in use.")
@click.argument("frames", nargs=-1, type=click.Path(dir_okay=False, path_type=Path), metavar="[FRAME.png]...")
def add(
    config: Path, key: Path, parts: tuple[str, ...], results: tuple[str, ...], yes: bool, frames: tuple[Path, ...]
) -> None:
    """Grow the device's memory bank by good frames, so that parts like them are no longer flagged.

    The frames are those of parts and results that people labelled good on this device, or files. No engine is built; a
    running daemon uses the new bank from the next part on. A bank that would miss a stored defect is refused.

    \b
    Examples:
      procunit label cleared.csv --config line.yaml
      procunit bank add --config line.yaml --key line-bank.pem --part 4711 --part 4712
      procunit bank add --config line.yaml --key line-bank.pem --yes cleared/*.png
    """
    device = _device(settings_from_file(config))
    signing_key = _trusted_signing_key(key, device.keys)
    pinned = pinned_frames(device.settings.state_dir / FRAMES_FOLDER / PINNED)
    chosen = {frame.path.resolve(): frame_name(frame) for frame in good_frames(pinned, parts, results)}
    chosen |= {path.resolve(): clean_text(path.name) for path in frames}
    view_of = {path: view_of_file(path, pinned) for path in chosen}
    chosen = {path: name for path, name in chosen.items() if _is_of_known_view(device.bundle, name, view_of[path])}
    if not chosen:
        raise ProcunitError("no frame is named", remedy="Name parts, results or files of good frames")
    for path, name in chosen.items():
        if any(frame.path.resolve() == path for frame in pinned):
            echo(f"{name}: {labels_text(path)}")
    with device.store.locked():
        _grow(device, signing_key, chosen, view_of, pinned, ask=not yes)


@click.command()
@config_option("Settings of the device.")
def undo(config: Path) -> None:
    """Go back to the memory bank that was in use before the present one.

    \b
    Examples:
      procunit bank undo --config line.yaml
      procunit bank undo --config /etc/procunit-edge/line-1.yaml
    """
    store = _device(settings_from_file(config)).store
    with store.locked():
        version = store.undo()
    echo(f"{_version_text(version)} is in use from the next part on")


@click.command()
@config_option("Settings of the device.")
def show(config: Path) -> None:
    """Show the versions of the device's memory bank: who made them, from which frames, and which one is in use.

    \b
    Examples:
      procunit bank show --config line.yaml
      procunit bank show --config /etc/procunit-edge/line-1.yaml
    """
    device = _device(settings_from_file(config))
    own = device.bundle.bank()
    usable = device.store.latest_usable()
    console = Console()
    table = Table("Version", "Made", "By", "Key", "Frames", "Rows", "Threshold", box=box.SIMPLE)
    table.add_row(
        "0", "", "the bundle", device.bundle.signed_by.name, "", f"{len(own)}", _threshold_text(device.store.own_limit)
    )
    for number in device.store.numbers():
        try:
            delta = device.store.version(number)
        except ProcunitError:
            table.add_row(f"{number}", "refused", "", "", "", "", "")
            continue
        record = delta.record
        rows = f"+{len(delta.bank.added)}" + (f" -{len(record.removed)}" if record.removed else "")
        by, name = record.made_by, delta.signed_by.name
        table.add_row(
            f"{number}", record.made_at_utc, by, name, f"{len(record.sources)}", rows, _threshold_text(record.anomaly)
        )
    console.print(table)
    for problem in usable.refused:
        console.print(f"refused: {problem}", soft_wrap=True)
    version = 0 if usable.delta is None else usable.delta.record.version
    console.print(f"{_version_text(version)} is in use")
    for source in () if usable.delta is None else usable.delta.record.sources:
        console.print(f"  {source.name}: {source.rows} rows, score {source.score:.4f}", highlight=False)


def _device(settings: Settings) -> _Device:
    files = settings.bundle
    trusted = trusted_keys_from_files(files.trusted_keys, files.demo_keys, files.bank_keys)
    bundle = open_bundle(files.path, trusted)
    keys = keys_for_bank(settings.bundle.bank_keys, trusted, demo_bundle=bundle.signed_by.demo)
    return _Device(settings, bundle, keys, BankStore(settings.state_dir, bundle, keys))


def _trusted_signing_key(path: Path, keys: tuple[TrustedKey, ...]) -> SigningKey:
    key = signing_key_from_file(path)
    public = key.trusted.key.public_bytes_raw()
    if all(public != trusted.key.public_bytes_raw() for trusted in keys):
        raise ProcunitError(
            "this device does not trust the key to sign its memory bank",
            where=str(path),
            remedy="Name its public key under bundle.bank_keys in the settings, and restart the daemon",
        )
    return key


def _grow(
    device: _Device,
    key: SigningKey,
    chosen: dict[Path, str],
    view_of: dict[Path, str],
    pinned: tuple[PinnedFrame, ...],
    *,
    ask: bool,
) -> None:
    """Grow the bank by the chosen frames (path -> name, path -> view), show the effect, and put it in use."""
    bundle, store = device.bundle, device.store
    evidence, base, graph = evidence_from_bundle(bundle), bundle.bank(), PatchesGraph(bundle)
    sha256 = {path: hash_of_good(path, bundle, pinned) for path in chosen}
    frames = [GoodFrame(name, graph.tiles(read_image(path), view_of[path])) for path, name in chosen.items()]
    stored = [
        frame
        for frame in pinned
        if frame.label == GOOD or _is_of_known_view(bundle, f"{frame.label} of {frame_name(frame)}", frame.view)
    ]
    evidence = replace(evidence, defects=(*evidence.defects, *defects_of_device(bundle, base, graph, stored)))
    usable = store.latest_usable()
    for problem in usable.refused:
        echo(f"refused: {problem}", err=True)
    earlier = () if usable.delta is None else usable.delta.record.sources
    bank = own_bank(base, store.own_limit) if usable.delta is None else usable.delta.bank
    budget = bundle.manifest.budget
    bounds = Bounds(
        own=store.own_limit,
        flagged_parts=0 if budget is None else budget.flagged_parts,
        clear_spreads=bundle.golden().tolerance,
        cleared_scores=tuple(source.score for source in earlier),
    )
    growth = grow(bank, frames, evidence, bounds)
    _print_growth(growth, bank)
    _print_flagging_types(bundle, base, chosen, view_of)
    if len(growth.bank.added) == len(bank.added):
        echo("The score of every frame is low enough already: nothing is added.")
        return
    if ask:
        click.confirm("Put this bank in use?", abort=True)
    sources = (
        Source(sha256=sha256[path], name=plain(frame.name), rows=frame.rows, score=frame.score_after)
        for path, frame in zip(chosen, growth.frames, strict=True)
    )
    version = store.add(growth.bank, key, (*earlier, *sources), plain(getpass.getuser()))
    echo(f"{_version_text(version)} is in use from the next part on; `procunit bank undo` undoes this")


def _print_growth(growth: Growth, before: GrownBank) -> None:
    console, limit = Console(), growth.bank.limit
    table = Table("Frame", "Score before", "Score after", "Rows added", box=box.SIMPLE)
    for frame in growth.frames:
        table.add_row(frame.name, f"{frame.score_before:.4f}", f"{frame.score_after:.4f}", f"{frame.rows}")
    console.print(table)
    console.print(f"Bank: {len(before.rows)} -> {len(growth.bank.rows)} rows", highlight=False)
    console.print(f"Anomaly threshold: {_threshold_text(before.limit)} -> {_threshold_text(limit)}", highlight=False)
    dropped = len(growth.bank.removed) - len(before.removed)
    if dropped:
        console.print(
            f"The bank is full: its {dropped} most redundant rows are dropped, which can raise scores by up to "
            f"{growth.coverage_loss:.4f}",
            highlight=False,
            soft_wrap=True,
        )


def _print_flagging_types(
    bundle: Bundle, base: NDArray[np.float32], chosen: dict[Path, str], view_of: dict[Path, str]
) -> None:
    """Print which of the frames a type's score flags, too."""
    scores = type_scores_of_files(bundle, base, {path: view_of[path] for path in chosen})
    for name, type_scores in zip(chosen.values(), scores, strict=True):
        for defect_type, score in zip(bundle.manifest.types, type_scores, strict=True):
            if score >= defect_type.limit.threshold:
                echo(
                    f"{name} is not cleared by this alone: {defect_type.name} flags it, too ({score:.3f} >= "
                    f"{defect_type.limit.threshold:.3f}), and a bank does not change that"
                )


def _is_of_known_view(bundle: Bundle, name: str, view: str) -> bool:
    """Whether the bundle knows the frame's view; says so if not: such a frame is left out."""
    problem = unknown_view_text(view, bundle)
    if problem is not None:
        echo(f"left out: {name} {problem}", err=True)
    return problem is None


def _threshold_text(limit: ScoreLimit) -> str:
    return f"{limit.threshold:.4f}"


def _version_text(version: int) -> str:
    return f"Version {version} of the memory bank" if version else "The bundle's own memory bank"
