"""A graph of a few nodes in the form of a bare backbone, for tests of the benchmark."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tests.support.tiny_graph import SIDE_PX


def write_bare_graph(path: Path) -> Path:
    """`image` uint8 [N, 128, 128, 1] to `logits` [N, 1], its mean."""
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Identity", ["mean"], ["logits"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIDE_PX, SIDE_PX, 1])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 1])
    graph = helper.make_graph(nodes, "bare", [image], [logits])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path
