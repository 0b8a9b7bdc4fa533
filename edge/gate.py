"""The golden gate: the bundle's own frames through this device's preprocessing and engine, before it judges a part.

A score may drift by the bundle's tolerance, counted in spreads of that score on good parts, and no decision may flip.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.bundle import Bundle
from edge.dataset import read_image
from edge.engine import Engine, EngineError
from edge.errors import ProcunitError
from edge.manifest import GoldenFrame, Manifest
from edge.messages import Decision, Scores
from edge.pipeline import score_pixels
from edge.policy import decide, logit, policy_without_authority

_NEVER_AUDIT = 1.0


@dataclass(frozen=True, slots=True)
class GoldenCheck:
    """One golden frame's outcome.

    `drift` is the largest of its scores' distances from the reference, in spreads; `score` names which. It is infinite
    where the engine failed or gave no number. `problem` is None if the frame passed.
    """

    file: str
    score: str
    drift: float
    problem: str | None


@dataclass(frozen=True, slots=True)
class GateResult:
    """All golden frames' outcomes against the tolerance."""

    tolerance: float
    checks: tuple[GoldenCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether every frame passed, and there was one."""
        return bool(self.checks) and all(check.problem is None for check in self.checks)

    def __str__(self) -> str:
        if not self.checks:
            return "the bundle holds no golden frames, so nothing shows that this engine judges as it should"
        failed = [check for check in self.checks if check.problem is not None]
        if not failed:
            worst = max(self.checks, key=lambda check: check.drift)
            return (
                f"{len(self.checks)} golden frames, worst drift {worst.drift:.2g} spreads "
                f"({worst.score} of {worst.file}; {self.tolerance:g} allowed)"
            )
        worst = max(failed, key=lambda check: check.drift)
        return f"{len(failed)} of {len(self.checks)} golden frames fail, the worst {worst.file}: {worst.problem}"


def check_golden(bundle: Bundle, engine: Engine) -> GateResult:
    """Run every golden frame of the bundle.

    Raises:
        ProcunitError: the golden frames cannot be read.
    """
    golden = bundle.golden()
    checks = tuple(_check(bundle, frame, golden.tolerance, engine) for frame in golden.frames)
    return GateResult(golden.tolerance, checks)


def _check(bundle: Bundle, frame: GoldenFrame, tolerance: float, engine: Engine) -> GoldenCheck:
    pixels = read_image(bundle.path / frame.file)
    manifest = bundle.manifest
    try:
        scores, _ = score_pixels(pixels, manifest.geometry, engine)
    except (EngineError, ProcunitError) as error:
        return GoldenCheck(frame.file, "none", float("inf"), f"no scores: {error}")
    decision = decide(scores, policy_without_authority(manifest.types, manifest.anomaly), _NEVER_AUDIT)
    if decision.not_inspected is not None:
        return GoldenCheck(frame.file, "none", float("inf"), decision.why[0].text)
    score, drift = max(_drifts(scores, frame, manifest).items(), key=lambda item: item[1], default=("none", 0.0))
    return GoldenCheck(frame.file, score, drift, _problem(score, drift, tolerance, decision, frame))


def _drifts(scores: Scores, frame: GoldenFrame, manifest: Manifest) -> dict[str, float]:
    """Distance of each score from its reference, in spreads on good parts; a type's in logits."""
    drifts = {
        defect_type.name: abs(logit(score) - logit(reference)) / defect_type.limit.spread
        for defect_type, score, reference in zip(manifest.types, scores.type_scores, frame.type_scores, strict=True)
    }
    if manifest.anomaly is not None:
        drifts["anomaly"] = abs(scores.anomaly_score - frame.anomaly_score) / manifest.anomaly.spread
    return drifts


def _problem(score: str, drift: float, tolerance: float, decision: Decision, frame: GoldenFrame) -> str | None:
    if drift > tolerance:
        return f"the score {score!r} drifts by {drift:.3g} spreads, {tolerance:g} are allowed"
    if decision.verdict is not frame.verdict:
        return f"the verdict is {decision.verdict.value} instead of {frame.verdict.value}"
    return None
