"""All variants of a bundle on all runtimes of this machine, side by side: the gate, flips, latency, memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.bundle.manifest import Precision
from edge.bundle.reader import Bundle, BundleContent
from edge.engine.golden_gate import GateResult, check_golden
from edge.engine.protocol import Engine, EngineError
from edge.engine.scores import score_pixels
from edge.engine.settings import EngineKind
from edge.errors import ProcunitError
from edge.image_file import read_image
from edge.messages import Verdict
from edge.policy import Policy, decide, policy_from_manifest
from edge.preprocess import tensor_from_pixels
from edge.record import Record
from export.engines.memory import MemoryMeter
from export.engines.runtimes import Work, open_on
from training.data.dataset import Photo

TIMED_S = 2.0
"""For how long each variant is timed."""
_WARM_UPS = 3
_NEVER_AUDIT = 1.0
_SEVEREST_FIRST = (Verdict.NOT_INSPECTED, Verdict.REJECT, Verdict.REVIEW, Verdict.PASS)


class Latency(Record):
    """Milliseconds of one inference, host memory to host memory."""

    p50_ms: float
    p99_ms: float


class Variant(Record):
    """One precision on one runtime; `problem` says why there are no figures.

    `worst_drifts` are in spreads on good parts, `flipped_parts` those of the folder's whose verdict is not the
    reference's. `gpu_mb` is None where no GPU is used.
    """

    kind: EngineKind
    precision: Precision
    size_bytes: int
    problem: str | None = None
    passed: bool = False
    gate: str = ""
    worst_drifts: dict[str, float] = {}  # noqa: RUF012  (pydantic copies defaults)
    golden_flips: int | None = None
    predicted_flip_rate: float | None = None
    flipped_parts: tuple[str, ...] = ()
    latency: Latency | None = None
    host_mb: float | None = None
    gpu_mb: float | None = None


class Comparison(Record):
    """Every variant of a bundle; `parts` in `photos` were judged by each of them."""

    bundle: str
    parts: int
    photos: int
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Subject:
    """What is compared: a bundle, photographs beyond its golden frames, and the policy they are judged by."""

    content: BundleContent
    photos: Sequence[Photo]
    policy: Policy


def subject_of(content: BundleContent, photos: Sequence[Photo]) -> Subject:
    """The bundle with the authority that its own key lends it; with no key named, as a demonstration."""
    demo_key = content.signed_by.demo if isinstance(content, Bundle) else True
    return Subject(content, photos, policy_from_manifest(content.manifest, demo_key=demo_key))


def compare(
    subject: Subject, variants: Sequence[tuple[EngineKind, Precision]], work: Work, threads: int = 0
) -> Comparison:
    """Open, gate, judge with, time and close each variant in turn; the first FP32 one is the reference.

    A variant that fails, on the bundle's own frames or on a photograph, is a row that says why. FP32 is put first:
    the others are held to it.

    Raises:
        BuildCancelledError: it was ended.
    """
    reference: dict[str, Verdict] = {}
    rows = []
    for kind, precision in sorted(variants, key=lambda variant: variant[1] != "fp32"):
        row, verdicts = _variant(subject, kind, precision, work, threads)
        if not reference and precision == "fp32":
            reference = verdicts
        flipped = sorted(part for part, verdict in verdicts.items() if reference.get(part, verdict) is not verdict)
        rows.append(row.model_copy(update={"flipped_parts": tuple(flipped)}))
    return Comparison(
        bundle=subject.content.bundle_id,
        parts=len({photo.part_id for photo in subject.photos}),
        photos=len(subject.photos),
        variants=tuple(rows),
    )


def _variant(
    subject: Subject, kind: EngineKind, precision: Precision, work: Work, threads: int
) -> tuple[Variant, dict[str, Verdict]]:
    content = subject.content
    size_bytes = sum(content.manifest.files[graph.name].size_bytes for graph in content.graphs(precision))
    row = Variant(kind=kind, precision=precision, size_bytes=size_bytes)
    work.step(f"{kind} {precision}: opening")
    try:
        with MemoryMeter(gpu=kind != "ort") as meter:
            engine = open_on(kind, content, precision, threads, work)
            try:
                gate = check_golden(content, engine)
                memory = meter.growth()
                latency = _latency(content, engine)
                verdicts = _verdicts(subject, engine, work, f"{kind} {precision}")
            finally:
                engine.close()
    except (ProcunitError, EngineError) as error:
        return row.model_copy(update={"problem": str(error)}), {}
    measured = {"latency": latency, "host_mb": memory.host_mb, "gpu_mb": memory.gpu_mb}
    return row.model_copy(update={**_gate_figures(gate), **measured}), verdicts


def _gate_figures(gate: GateResult) -> dict[str, object]:
    return {
        "passed": gate.passed,
        "gate": str(gate),
        "worst_drifts": gate.worst_drifts,
        "golden_flips": gate.flips,
        "predicted_flip_rate": gate.flip_rate,
    }


def _latency(content: BundleContent, engine: Engine) -> Latency:
    tiles = [
        tensor_from_pixels(read_image(content.path / frame.file), content.manifest.geometry)
        for frame in content.golden().frames
    ]
    for _ in range(_WARM_UPS):
        engine.infer(tiles[0])
    times_ms: list[float] = []
    until_s = time.monotonic() + TIMED_S
    while time.monotonic() < until_s:
        started_ns = time.perf_counter_ns()
        engine.infer(tiles[len(times_ms) % len(tiles)])
        times_ms.append((time.perf_counter_ns() - started_ns) / 1e6)
    p50, p99 = np.percentile(times_ms, [50, 99]).tolist()
    return Latency(p50_ms=p50, p99_ms=p99)


def _verdicts(subject: Subject, engine: Engine, work: Work, name: str) -> dict[str, Verdict]:
    """Each part's verdict: the severest of its photographs'."""
    verdicts: dict[str, Verdict] = {}
    for number, photo in enumerate(subject.photos, start=1):
        work.step(f"{name}: judging photographs", number / len(subject.photos))
        verdict = _verdict(photo.path, subject, engine)
        verdicts[photo.part_id] = min(verdict, verdicts.get(photo.part_id, verdict), key=_SEVEREST_FIRST.index)
    return verdicts


def _verdict(path: Path, subject: Subject, engine: Engine) -> Verdict:
    scores, _ = score_pixels(read_image(path), subject.content.manifest.geometry, engine)
    return decide(scores, subject.policy, _NEVER_AUDIT).verdict
