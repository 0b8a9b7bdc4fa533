"""A program that makes the GPU access an invalid address, and prints how the engine reported it.

usage: python -m tests.gpu.broken_engine LIBRARY BUNDLE PLAN...
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from edge.bundle.reader import open_without_signature_check
from edge.engine.cuda import cuda_from_system
from edge.engine.protocol import EngineError, EngineLostError
from edge.engine.trt import TrtEngine
from edge.engine.trt_library import library_from_kind
from edge.errors import ProcunitError


def main(kind: str, bundle: str, plans: list[str]) -> None:
    """Break the engine, close it, and try to open it again in the same process."""
    content = open_without_signature_check(Path(bundle))
    library = library_from_kind("tensorrt" if kind == "tensorrt" else "tensorrt_rtx")
    geometry, types = content.manifest.geometry, len(content.manifest.types)
    shape = (len(geometry.regions), geometry.input_height_px, geometry.input_width_px, geometry.channels)

    def opened() -> TrtEngine:
        return TrtEngine(
            [Path(plan) for plan in plans],
            content.bank(),
            geometry=geometry,
            types=types,
            library=library,
            cuda=cuda_from_system(),
        )

    engine = opened()
    engine.infer(np.zeros(shape, np.uint8))
    context, _ = engine._contexts[-1]
    context.set_tensor_address("bank", 256)
    engine._graph = None
    try:
        engine.infer(np.zeros(shape, np.uint8))
    except EngineLostError as error:
        print(f"lost: {error}")
    except EngineError as error:
        print(f"not lost: {error}")
    engine.close()
    try:
        again = opened()
        again.infer(np.zeros(shape, np.uint8))
        again.close()
        print("; opened again in the same process")
    except (EngineError, ProcunitError) as error:
        print(f"; the same process cannot open it again: {error}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
