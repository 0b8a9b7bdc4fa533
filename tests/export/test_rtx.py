"""TensorRT's own parser and builder take every form of the graph, on the CPU, strongly typed."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edge.errors import ProcunitError
from edge.manifest import Precision
from tests.export.graphs import SIDE_PX, make_graph
from tests.rtx import built_engine_bytes


@pytest.mark.parametrize(
    ("precision", "types", "channels", "separate"),
    [
        ("fp32", 3, 1, False),
        ("fp32", 0, 1, False),
        ("fp32", 2, 3, True),
        ("fp16", 0, 3, False),
        ("fp16", 2, 1, True),
        ("int8", 0, 1, False),
        ("int8", 2, 1, True),
    ],
)
def test_an_engine_is_built_of_every_graph_with_a_bank_that_may_grow(
    precision: Precision, types: int, channels: int, separate: bool, tmp_path: Path
) -> None:
    made = make_graph(tmp_path, types, channels)
    for path in made.paths(precision, separate=separate):
        assert built_engine_bytes(path, tiles=2) > 10_000


def test_a_graph_that_turns_pixels_before_the_cast_is_refused(tmp_path: Path) -> None:
    """What the check is for: ONNX Runtime takes such a graph, TensorRT does not."""
    nodes = [
        helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["turned"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["cast"], ["mean"], keepdims=0),
        helper.make_node("Add", ["bank", "mean"], ["out"]),
    ]
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["tiles", SIDE_PX, SIDE_PX, 1]),
        helper.make_tensor_value_info("bank", TensorProto.FLOAT, ["rows", 8]),
    ]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["rows", 8])]
    graph = helper.make_graph(nodes, "turned", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "turned.onnx")
    with pytest.raises(ProcunitError, match="Transpose"):
        built_engine_bytes(tmp_path / "turned.onnx")
