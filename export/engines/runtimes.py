"""The runtimes of this machine, and a bundle's graphs opened on one of them."""

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
from export.engines.build import Tell, Wait


@dataclass(frozen=True)
class Work:
    """Where engines are kept, who is told of progress, and who may end it all."""

    cache: Path
    tell: Tell
    wait: Wait

    def step(self, phase: str, fraction: float = 0.0) -> None:
        """Tell what is done now.

        Raises:
            BuildCancelledError: it is to end.
        """
        if self.wait(0):
            raise BuildCancelledError
        self.tell(BuildProgress(phase=phase, step=0, steps=1, fraction=fraction, seconds=0.0))


def why_not(kind: EngineKind) -> str | None:
    """Why nothing runs on a runtime here; None if it does."""
    if kind == "ort":
        return None if importlib.util.find_spec("onnxruntime") else "ONNX Runtime is not installed"
    if gpu_identity().name == NO_GPU:
        return "there is no GPU"
    try:
        library_from_kind(kind)
    except ProcunitError as error:
        return error.what
    return None


def runtimes_here() -> dict[EngineKind, str | None]:
    """Every runtime, and why it cannot be used; None if it can."""
    return {kind: why_not(kind) for kind in get_args(EngineKind)}


def best_runtime() -> EngineKind:
    """TensorRT if it works here, then TensorRT for RTX, else ONNX Runtime."""
    kinds: tuple[EngineKind, ...] = ("tensorrt", "tensorrt_rtx")
    return next((kind for kind in kinds if why_not(kind) is None), "ort")


def precision_to_run(kind: EngineKind, content: BundleContent) -> Precision:
    """What a device with default settings tries first: FP16 where there is a GPU."""
    return "fp16" if kind != "ort" and "fp16" in content.precisions else "fp32"


def open_on(kind: EngineKind, content: BundleContent, precision: Precision, threads: int, work: Work) -> Engine:
    """The bundle's graphs of one precision on a runtime, any precision on ONNX Runtime too.

    Raises:
        ProcunitError: they cannot be built or loaded.
        BuildCancelledError: the build was ended.
        EngineError: the GPU failed.
    """
    if kind == "ort":
        from edge.engine.ort import OrtEngine  # noqa: PLC0415  (a Jetson may lack ONNX Runtime)

        return OrtEngine(content.graphs(precision), content.bank(), threads=threads)
    settings = EngineSettings(kind=kind, precision=precision)
    return open_engine(content, settings, work.cache, work.tell, stopping=lambda: work.wait(0))
