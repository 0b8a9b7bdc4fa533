"""TensorRT's parser and builder accept every form of the graph, on the CPU, strongly typed."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edge.bundle.manifest import Precision
from edge.errors import ProcunitError
from tests.export.graphs import SIDE_PX, MadeGraph, make_graph
from tests.support.rtx import built_engine_bytes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeGraph:
    return make_graph(tmp_path_factory.mktemp("variants"), 0, 3)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_engine_is_built_for_colour_without_a_head(made: MadeGraph, precision: Precision) -> None:
    assert built_engine_bytes(made.paths(precision)[0], tiles=2) > 10_000


def test_a_graph_that_transposes_before_the_cast_is_refused(tmp_path: Path) -> None:
    """Why the check exists: ONNX Runtime accepts such a graph, TensorRT does not."""
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
