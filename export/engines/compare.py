"""Compares all precisions of a bundle on all runtimes of this machine: golden frames, flips, latency, memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.bundle.manifest import Precision
from edge.bundle.reader import Bundle, BundleContent
from edge.engine.golden_gate import GateResult, check_golden, golden_pixels
from edge.engine.protocol import Engine, EngineError
from edge.engine.scores import score_pixels
from edge.engine.settings import EngineKind
from edge.errors import ProcunitError
from edge.image_file import read_image
from edge.messages import Verdict, of_main_view
from edge.policy import Policy, decide, policy_from_manifest
from edge.preprocess import tensor_from_pixels
from edge.record import Record
from export.engines.memory import MemoryMeter
from export.engines.runtimes import JobContext, open_engine_on
from export.golden import AUDIT_DRAW_NEVER
from training.data.dataset import Photo

TIMED_S = 2.0
"""How long each variant is timed."""
_WARM_UPS = 3
_SEVEREST_FIRST = (Verdict.NOT_INSPECTED, Verdict.REJECT, Verdict.REVIEW, Verdict.PASS)


class Latency(Record):
    """Milliseconds of one inference, host memory to host memory."""

    p50_ms: float
    p99_ms: float


class Variant(Record):
    """One precision on one runtime; `problem` is the reason if there are no figures.

    `worst_drifts` are in spreads on good parts; `flipped_parts` are the parts of the data folder whose verdict differs
    from the reference's. `gpu_mb` is None if no GPU is used.
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
    """Every variant of a bundle; each of them inspected `parts` parts in `photos` photographs."""

    bundle: str
    parts: int
    photos: int
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class Subject:
    """What is compared: a bundle, photographs beside its golden frames, and the policy that decides the verdicts."""

    content: BundleContent
    photos: Sequence[Photo]
    policy: Policy


def subject_of(content: BundleContent, photos: Sequence[Photo]) -> Subject:
    """The bundle with the authority that its signing key allows; without a trusted key, that of a demo key."""
    demo_key = content.signed_by.demo if isinstance(content, Bundle) else True
    return Subject(content, photos, policy_from_manifest(content.manifest, demo_key=demo_key))


def compare(
    subject: Subject, variants: Sequence[tuple[EngineKind, Precision]], job: JobContext, threads: int = 0
) -> Comparison:
    """Open each variant in turn, check its golden frames, inspect the photographs, time it and close it.

    FP32 comes first; the first FP32 variant is the reference. A variant that fails becomes a row with the reason.

    Raises:
        BuildCancelledError: a stop was requested.
    """
    reference: dict[str, Verdict] = {}
    rows = []
    for kind, precision in sorted(variants, key=lambda variant: variant[1] != "fp32"):
        row, verdicts = _variant(subject, kind, precision, job, threads)
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
    subject: Subject, kind: EngineKind, precision: Precision, job: JobContext, threads: int
) -> tuple[Variant, dict[str, Verdict]]:
    content = subject.content
    size_bytes = sum(graph.entry.size_bytes for graph in content.graphs(precision))
    row = Variant(kind=kind, precision=precision, size_bytes=size_bytes)
    job.step(f"{kind} {precision}: opening")
    try:
        with MemoryMeter(gpu=kind != "ort") as meter:
            engine = open_engine_on(kind, content, precision, threads, job)
            try:
                gate = check_golden(content, engine)
                memory = meter.growth()
                latency = _latency(content, engine)
                verdicts = _verdicts(subject, engine, job, f"{kind} {precision}")
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
        tensor_from_pixels(golden_pixels(content, frame), content.manifest.geometry)
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


def _verdicts(subject: Subject, engine: Engine, job: JobContext, name: str) -> dict[str, Verdict]:
    """Each part's verdict: the most severe one of its photographs."""
    verdicts: dict[str, Verdict] = {}
    for number, photo in enumerate(subject.photos, start=1):
        job.step(f"{name}: inspecting photographs", number / len(subject.photos))
        verdict = _verdict(photo.path, subject, engine)
        verdicts[photo.part_id] = min(verdict, verdicts.get(photo.part_id, verdict), key=_SEVEREST_FIRST.index)
    return verdicts


def _verdict(path: Path, subject: Subject, engine: Engine) -> Verdict:
    scores, _ = score_pixels(read_image(path), subject.content.manifest.geometry, engine)
    return decide(of_main_view(scores), subject.policy, AUDIT_DRAW_NEVER).verdict
