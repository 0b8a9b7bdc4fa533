"""Sends mutated bundles through opening, reading of all records, the golden gate and `bundle show`, in one process.

Half of the bundles keep their signature: none of them may be accepted. The other half is signed again with the right
key, as a careless or hostile signer could: of these only what is still a valid bundle may be accepted. The drill fails
on an exception that is not one of those for people, on an accepted bundle of the first half or of a kind that is never
valid, and on a bundle that takes longer than two seconds.

    python -m tools.drills.bundles --count 10000
"""

from __future__ import annotations

import faulthandler
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import click
from click.testing import CliRunner

from edge.bank.evidence import can_grow, evidence_from_bundle
from edge.bundle.consistency import check_records
from edge.bundle.keys import signing_key_from_file, trusted_key_from_file
from edge.bundle.manifest import MANIFEST, SIGNATURE
from edge.bundle.reader import file_entry_from_path, open_bundle
from edge.cli.bundle import show
from edge.cli.program import run_program
from edge.engine.golden_gate import check_golden
from edge.engine.ort import OrtEngine
from edge.engine.protocol import EngineError
from edge.errors import ProcunitError
from edge.terminal import echo
from tests.support.tiny_bundle import TinyBundle, build_tiny_bundle
from tools.drills.bundles.mutations import MUTATIONS, NEVER, Mutation, changed_manifest, contradicting_counts

LIMIT_S = 2.0
"""The longest that one bundle may take, in seconds of processor time: a busy machine is no failure."""
HANGS_S = 120.0
"""After this long without an end all stacks are printed, and the drill exits."""
MEMORY_DISK = Path("/dev/shm")  # noqa: S108  (thousands of files for one bundle)
_SHOWN = 5


@dataclass
class Outcome:
    """What came of all bundles so far; `failures` are texts, each a reason why the drill fails."""

    refused: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest: str = ""
    failures: list[str] = field(default_factory=list)


@click.command()
@click.option("--count", type=click.IntRange(1), default=10_000, show_default=True, help="How many bundles.")
@click.option("--seed", default=1, show_default=True, help="Seed of the mutations.")
def main(count: int, seed: int) -> None:
    """Try mutated bundles; exits with 1 if one is accepted wrongly, crashes a reader or takes too long."""
    faulthandler.enable()
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None) as folder:
        outcome = try_bundles(Path(folder), count, seed)
    took_s, peak_mb = time.monotonic() - started_s, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for name in sorted({*outcome.refused, *outcome.accepted}):
        echo(f"{name:<42}{outcome.refused[name]:>7} refused{outcome.accepted[name]:>7} accepted")
    echo(
        f"{count} bundles in {took_s:.0f} s: {outcome.refused.total()} refused, {outcome.accepted.total()} accepted "
        f"({sum(n for name, n in outcome.accepted.items() if name.startswith('unsigned'))} of them unsigned), "
        f"{len(outcome.failures)} failures; the slowest took {outcome.slowest_s:.2f} s ({outcome.slowest}); "
        f"peak memory {peak_mb:.0f} MB"
    )
    for failure in outcome.failures[:_SHOWN]:
        echo(failure, err=True)
    if outcome.failures:
        sys.exit(1)


def try_bundles(folder: Path, count: int, seed: int) -> Outcome:
    """Try `count` mutations of a small bundle, every second of them signed again; `folder` is empty."""
    rng, outcome = random.Random(seed), Outcome()  # noqa: S311  (no secret)
    pristine = build_tiny_bundle(folder / "pristine", ("scratch", "dent"), rejecting=("scratch",), grows=True)
    copy = TinyBundle(folder / "bundle", pristine.public_key, pristine.private_key)
    problem = _problem(copy_of(pristine, copy))
    assert problem is None, f"the pristine bundle is refused: {problem}"
    for number in range(count):
        signed = number % 2 == 1
        mutation = MUTATIONS[number // 2 % len(MUTATIONS)]
        name = f"{'signed' if signed else 'unsigned'} {mutation.__name__}"
        copy_of(pristine, copy)
        mutation(copy.path, rng)
        if _same(pristine.path, copy.path):
            continue
        if signed:
            sign_again(copy, keep_manifest=mutation in (changed_manifest, contradicting_counts))
        _try_one(copy, name, mutation, outcome, f"{name} (number {number} of seed {seed})")
    faulthandler.cancel_dump_traceback_later()
    return outcome


def copy_of(pristine: TinyBundle, copy: TinyBundle) -> TinyBundle:
    """Make the copy equal to the pristine bundle."""
    try:
        shutil.rmtree(copy.path, ignore_errors=not copy.path.exists())
    except RecursionError:  # a folder in a folder in a folder
        subprocess.run(["rm", "-rf", copy.path], check=True)
    shutil.copytree(pristine.path, copy.path)
    return copy


def sign_again(bundle: TinyBundle, *, keep_manifest: bool) -> None:
    """Sign what is in the folder: with the hashes of its files, unless the manifest is to stay as it is."""
    manifest = bundle.path / MANIFEST
    if manifest.is_symlink() or not manifest.is_file() or manifest.stat().st_size > 1 << 24:
        return
    data = manifest.read_bytes()
    if not keep_manifest:
        data = _with_hashes(data, bundle.path)
        manifest.write_bytes(data)
    if not (bundle.path / SIGNATURE).exists() or (bundle.path / SIGNATURE).is_file():
        (bundle.path / SIGNATURE).write_bytes(signing_key_from_file(bundle.private_key).key.sign(data))


def _with_hashes(data: bytes, folder: Path) -> bytes:
    try:
        manifest = json.loads(data)
        for name in manifest["files"]:
            path = folder / name
            if path.is_file() and path.stat().st_size < 1 << 30:
                manifest["files"][name] = file_entry_from_path(path).model_dump()
        return json.dumps(manifest).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        return data  # it is damaged, and signed as it is


def _same(pristine: Path, copy: Path) -> bool:
    """Whether a mutation left everything as it was."""
    return _contents(pristine) == _contents(copy)


def _contents(folder: Path) -> dict[str, bytes | str]:
    """The content of each file, or what else there is, by name; nothing large is read."""
    found: dict[str, bytes | str] = {}
    for path in (*folder.glob("*"), *folder.glob("*/*")):
        plain = path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 24
        found[path.relative_to(folder).as_posix()] = path.read_bytes() if plain else f"{path.lstat().st_mode:o}"
    return found


def _try_one(bundle: TinyBundle, name: str, mutation: Mutation, outcome: Outcome, which: str) -> None:
    faulthandler.dump_traceback_later(HANGS_S, exit=True)
    started_s = time.process_time()
    try:
        problem = _problem(bundle)
    except Exception:  # noqa: BLE001  (what the drill looks for)
        problem = "crashed"
        outcome.failures.append(f"{which}: {traceback.format_exc()}")
    took_s = time.process_time() - started_s
    if took_s > outcome.slowest_s:
        outcome.slowest_s, outcome.slowest = took_s, which
    if took_s > LIMIT_S:
        outcome.failures.append(f"{which}: took {took_s:.1f} s")
    (outcome.refused if problem is not None else outcome.accepted)[name] += 1
    if problem is None and (name.startswith("unsigned") or mutation in NEVER):
        outcome.failures.append(f"{which}: accepted")


def _problem(bundle: TinyBundle) -> str | None:
    """Why the bundle cannot be used, as a device and as `bundle show` find it; None if it can."""
    shown = CliRunner().invoke(show, [str(bundle.path), "--demo-trust", str(bundle.public_key)], standalone_mode=False)
    if shown.exception is not None and not isinstance(shown.exception, ProcunitError):
        raise shown.exception
    try:
        content = open_bundle(bundle.path, (trusted_key_from_file(bundle.public_key, demo=True),))
        assert shown.exception is None, f"it opens, but `bundle show` refuses it: {shown.exception}"
        check_records(content)
        if can_grow(content.manifest):
            evidence_from_bundle(content)
        engine = OrtEngine(content.graphs(), content.bank(), threads=1)
        try:
            gate = check_golden(content, engine)
        finally:
            engine.close()
    except (ProcunitError, EngineError) as error:
        return str(error)
    return None if gate.passed else str(gate)


if __name__ == "__main__":
    run_program(main, "drill-bundles")
