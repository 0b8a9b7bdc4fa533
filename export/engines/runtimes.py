"""The inference runtimes of this machine, and how to open a bundle's graphs on one of them."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from edge.bundle.manifest import Precision
from edge.bundle.reader import BundleContent
from edge.engine.build_progress import BuildCancelledError, BuildProgress
from edge.engine.choice import open_engine
from edge.engine.key import NO_GPU, gpu_identity
from edge.engine.protocol import Engine
from edge.engine.settings import EngineKind, EngineSettings
from edge.engine.trt_library import library_from_kind
from edge.errors import ProcunitError
from export.engines.build import OnProgress, WaitForStop


@dataclass(frozen=True)
class JobContext:
    """The engine cache, the progress callback and the stop request of one command."""

    cache: Path
    on_progress: OnProgress
    wait_for_stop: WaitForStop

    def step(self, phase: str, fraction: float = 0.0) -> None:
        """Report the current phase.

        Raises:
            BuildCancelledError: a stop was requested.
        """
        if self.wait_for_stop(0):
            raise BuildCancelledError
        self.on_progress(BuildProgress(phase=phase, step=0, steps=1, fraction=fraction, seconds=0.0))


def why_unavailable(kind: EngineKind) -> str | None:
    """Why a runtime cannot be used on this machine; None if it can."""
    if kind == "ort":
        return None if importlib.util.find_spec("onnxruntime") else "ONNX Runtime is not installed"
    if gpu_identity().name == NO_GPU:
        return "there is no GPU"
    try:
        library_from_kind(kind)
    except ProcunitError as error:
        return error.what
    return None


def runtimes_on_this_machine() -> dict[EngineKind, str | None]:
    """Every runtime with the reason why it cannot be used; None if it can."""
    return {kind: why_unavailable(kind) for kind in get_args(EngineKind)}


def best_runtime() -> EngineKind:
    """TensorRT if it works here, then TensorRT for RTX, else ONNX Runtime."""
    kinds: tuple[EngineKind, ...] = ("tensorrt", "tensorrt_rtx")
    return next((kind for kind in kinds if why_unavailable(kind) is None), "ort")


def precision_to_run(kind: EngineKind, content: BundleContent) -> Precision:
    """The precision that a device with default settings tries first: FP16 on a GPU, else FP32."""
    return "fp16" if kind != "ort" and "fp16" in content.precisions else "fp32"


def open_engine_on(
    kind: EngineKind, content: BundleContent, precision: Precision, threads: int, job: JobContext
) -> Engine:
    """Open the bundle's graphs of one precision on a runtime; ONNX Runtime opens every precision.

    Raises:
        ProcunitError: they cannot be built or loaded.
        BuildCancelledError: a stop was requested.
        EngineError: the GPU failed.
    """
    if kind == "ort":
        from edge.engine.ort import OrtEngine  # noqa: PLC0415  (a Jetson may lack ONNX Runtime)

        return OrtEngine(content.graphs(precision), content.bank(), threads=threads)
    settings = EngineSettings(kind=kind, precision=precision)
    return open_engine(content, settings, job.cache, job.on_progress, stopping=lambda: job.wait_for_stop(0))
