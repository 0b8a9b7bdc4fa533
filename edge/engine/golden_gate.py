"""The golden gate: before an engine inspects parts, it has to reproduce the reference scores of the golden frames.

The frames pass through this device's preprocessing and engine. Each score may drift by the bundle's tolerance, in
spreads of that score on good parts; no verdict may flip; and the largest drifts of all scores together may flip at most
1 part in 1000, as predicted from the calibration scores (`edge.engine.flip_rate`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from edge.bundle.damage import damage_refused
from edge.bundle.manifest import GoldenFrame, Manifest
from edge.bundle.reader import BundleContent
from edge.engine.flip_rate import MAX_FLIP_RATE, excess, excesses_from_bundle, score_names
from edge.engine.protocol import Engine, EngineError, Interruptible
from edge.engine.scores import score_pixels
from edge.errors import ProcunitError
from edge.image_file import image_from_bytes
from edge.messages import Decision, PixelArray, Scores, of_main_view
from edge.policy import decide, policy_without_authority

FRAME_LIMIT_S, GATE_LIMIT_S = 30.0, 100.0
"""A graph that needs longer can inspect no line; a service manager waits 120 s for the next sign of progress."""
_AUDIT_DRAW_NEVER = 1.0
"""A draw that is never below the audit rate, so that no pass is audited."""


@dataclass(frozen=True, slots=True)
class GoldenCheck:
    """The outcome for one golden frame.

    `drifts` are pairs of a score's name and its deviation from the reference, in spreads; empty if the engine failed or
    a score is not finite. `flipped`: the verdict differs from the reference. `problem` is None if the frame passed.
    """

    file: str
    drifts: tuple[tuple[str, float], ...]
    flipped: bool
    problem: str | None

    @property
    def score(self) -> str:
        """The name of the score that drifts most."""
        return max(self.drifts, key=lambda named: named[1])[0] if self.drifts else "none"

    @property
    def drift(self) -> float:
        """The drift of that score; infinite if there are no scores."""
        return max((drift for _, drift in self.drifts), default=float("inf"))


@dataclass(frozen=True, slots=True)
class GateResult:
    """The outcomes for all golden frames, the tolerance, and the predicted effect of the largest drifts on the line.

    `flip_rate` is the predicted share of parts whose verdict would flip; None if it cannot be predicted, because the
    bundle has no calibration scores or the engine gave no scores.
    """

    tolerance: float
    checks: tuple[GoldenCheck, ...]
    flip_rate: float | None = None

    @property
    def passed(self) -> bool:
        """True if there are frames, all of them passed, and few enough parts would flip."""
        frames_pass = bool(self.checks) and all(check.problem is None for check in self.checks)
        return frames_pass and (self.flip_rate is None or self.flip_rate <= MAX_FLIP_RATE)

    @property
    def flips(self) -> int:
        """The number of frames whose verdict differs from the reference or is missing."""
        return sum(check.flipped for check in self.checks)

    @property
    def worst_drifts(self) -> dict[str, float]:
        """The largest drift of each score over the frames, in spreads."""
        worst: dict[str, float] = {}
        for name, drift in (named for check in self.checks for named in check.drifts):
            worst[name] = max(drift, worst.get(name, 0.0))
        return worst

    def __str__(self) -> str:
        if not self.checks:
            return "the bundle has no golden frames, so this engine cannot be checked"
        failed = [check for check in self.checks if check.problem is not None]
        worst = max(failed or self.checks, key=lambda check: check.drift)
        if failed:
            return f"{len(failed)} of {len(self.checks)} golden frames fail, the worst {worst.file}: {worst.problem}"
        return (
            f"{len(self.checks)} golden frames, worst drift {worst.drift:.2g} spreads ({worst.score} of {worst.file}; "
            f"{self.tolerance:.2g} allowed); {_flip_rate_in_words(self.flip_rate)}"
        )


def check_golden(content: BundleContent, engine: Engine) -> GateResult:
    """Run every golden frame of the bundle.

    Raises:
        ProcunitError: the golden frames or the calibration scores cannot be read.
        EngineError: a frame takes longer than `FRAME_LIMIT_S`, or all of them longer than `GATE_LIMIT_S`.
    """
    ends_s = time.monotonic() + GATE_LIMIT_S
    with damage_refused(content.path):
        golden = content.golden()
        checks = []
        for frame in golden.frames:
            limit_s = min(FRAME_LIMIT_S, ends_s - time.monotonic())
            with _time_limit(engine, limit_s, frame.file):
                checks.append(_check(content, frame, golden.tolerance, engine))
        return GateResult(golden.tolerance, tuple(checks), _flip_rate(content, tuple(checks)))


@contextmanager
def _time_limit(engine: Engine, limit_s: float, file: str) -> Iterator[None]:
    """Interrupt the engine after `limit_s`; one that cannot be interrupted fails when it is done.

    Raises:
        EngineError: the time was up.
    """
    timer = threading.Timer(max(limit_s, 0.0), engine.interrupt if isinstance(engine, Interruptible) else _nothing)
    timer.daemon = True
    started_s = time.monotonic()
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if time.monotonic() - started_s > limit_s:
        raise EngineError(
            f"the golden frame {file} was not done within {max(limit_s, 0.0):.0f} s; a frame may take "
            f"{FRAME_LIMIT_S:.0f} s, all of them {GATE_LIMIT_S:.0f} s"
        )


def _nothing() -> None:
    pass


def golden_pixels(content: BundleContent, frame: GoldenFrame) -> PixelArray:
    """A golden frame as an image.

    Raises:
        ProcunitError: its file was changed since the bundle was opened, or is no usable image.
    """
    file = content.file(frame.file)
    return image_from_bytes(file.read_bytes(), str(file))


def _check(content: BundleContent, frame: GoldenFrame, tolerance: float, engine: Engine) -> GoldenCheck:
    pixels = golden_pixels(content, frame)
    manifest = content.manifest
    try:
        scores, _ = score_pixels(pixels, manifest.geometry, engine)
    except (EngineError, ProcunitError) as error:
        return GoldenCheck(frame.file, (), True, f"no scores: {error}")
    tiles = len(manifest.geometry.regions)
    if len(scores.anomaly_map) != tiles:
        return GoldenCheck(frame.file, (), True, f"outputs of {len(scores.anomaly_map)} tiles instead of {tiles}")
    decision = decide(
        of_main_view(scores), policy_without_authority(manifest.types, manifest.anomaly), _AUDIT_DRAW_NEVER
    )
    if decision.not_inspected is not None:
        return GoldenCheck(frame.file, (), True, decision.why[0].text)
    drifts = _drifts(scores, frame, manifest)
    flipped = decision.verdict is not frame.verdict
    return GoldenCheck(frame.file, drifts, flipped, _problem(drifts, tolerance, decision, frame))


def _drifts(scores: Scores, frame: GoldenFrame, manifest: Manifest) -> tuple[tuple[str, float], ...]:
    limits = manifest.types, manifest.anomaly
    drifts = np.abs(excess(scores, *limits) - excess(frame, *limits)).tolist()
    return tuple(zip(score_names(*limits), drifts, strict=True))


def _problem(
    drifts: tuple[tuple[str, float], ...], tolerance: float, decision: Decision, frame: GoldenFrame
) -> str | None:
    for name, drift in sorted(drifts, key=lambda named: -named[1]):
        if not drift <= tolerance:  # a drift that is no number is none that passes
            return f"the score {name!r} drifts by {drift:.3g} spreads, {tolerance:.3g} are allowed"
    if decision.verdict is not frame.verdict:
        return f"the verdict is {decision.verdict.value} instead of {frame.verdict.value}"
    return None


def _flip_rate(content: BundleContent, checks: tuple[GoldenCheck, ...]) -> float | None:
    excesses = excesses_from_bundle(content)
    if excesses is None or not all(check.drifts for check in checks) or not checks:
        return None
    worst = np.max([[drift for _, drift in check.drifts] for check in checks], axis=0)
    return excesses.flip_rate(worst)


def _flip_rate_in_words(rate: float | None) -> str:
    if rate is None:
        return "the bundle has no calibration scores to predict flips from"
    return f"{1000 * rate:.2g} flips in 1000 parts predicted ({1000 * MAX_FLIP_RATE:g} allowed)"
