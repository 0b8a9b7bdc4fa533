"""TensorRT-RTX on the CPU: its parser and builder, which need no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

MAX_ROWS = 16_384


def built_engine_bytes(path: Path, side_px: int, channels: int, features: int) -> int:
    """The size of the strongly typed engine built from a graph of the contract; fails with the parser's own words.

    The bank may have 1 to 16384 rows, the image 1 to 4 tiles.
    """
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for x86-64 alone")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(path.read_bytes())
    assert parsed, [str(parser.get_error(i)) for i in range(parser.num_errors)]
    profile = builder.create_optimization_profile()
    image = [(tiles, side_px, side_px, channels) for tiles in (1, 1, 4)]
    profile.set_shape("image", *image)
    profile.set_shape("bank", (1, features), (4096, features), (MAX_ROWS, features))
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    assert engine is not None
    return int(engine.nbytes)
