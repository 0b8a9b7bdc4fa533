"""The `engine` section of the settings file; the offline rooms use its names of engines too."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edge.bundle.manifest import Precision
from edge.settings_section import Integer, Section

EngineKind = Literal["ort", "tensorrt", "tensorrt_rtx"]


class EngineSettings(Section):
    """Which runtime runs the network, and how."""

    kind: EngineKind = Field(
        default="ort",
        title="Kind",
        description="ort: ONNX Runtime on the CPU; tensorrt: TensorRT on the GPU; tensorrt_rtx: TensorRT for RTX",
    )
    precision: Precision = Field(
        default="fp16",
        title="Precision",
        description="fp32, fp16 or int8: the precision that TensorRT tries first; ONNX Runtime computes in fp32",
    )
    threads: Annotated[Integer, Field(ge=0, le=256)] = Field(
        default=0, title="Threads", description="Threads of ONNX Runtime; 0: one per core"
    )
