"""A graph of a few nodes that fulfils the bundle's contract, for tests of everything except the network itself.

Each of the 8 x 8 patches of a 128 x 128 tile has three features: how dark its darkest pixel is, how bright its
brightest, and its mean. Types with even indices detect dark pixels, those with odd indices bright ones. Features are
centred for the search.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.anomaly import counted_patches
from edge.bundle.manifest import PATCHES_KEY
from edge.preprocess import PATCH_PX

GRID = 8
SIDE_PX = GRID * PATCH_PX
FEATURES = 3
COUNTED = counted_patches(GRID * GRID)
"""The graph counts all patches as inspected, so the score of a frame that is not square is wrong."""

CENTER = np.array([0.58, 0.52, 0.47], np.float32)
"""Approximate mean of the features of good parts."""

_HEAD_GAIN, _HEAD_OFFSET = 24.0, -6.0
_Constants = dict[str, np.generic | NDArray[np.float32] | NDArray[np.int64]]


def write_tiny_patches_graph(path: Path) -> None:
    """Write a graph that only computes patch features, as `edge.bundle.manifest.PATCHES_GRAPH`."""
    _write_graph(path, _patch_nodes(), [], [_float(PATCHES_KEY, ["N", FEATURES, "h", "w"])], _patch_constants())


def write_tiny_graph(path: Path, types: int, comment: str = "") -> None:
    """Write a graph of the bundle's contract for `types` defect types; without types it has no head."""
    nodes = [*_patch_nodes(), *_search_nodes()]
    constants = _patch_constants() | {
        "two": np.float32(2),
        "features_weight_norm": np.array([FEATURES, 1, 1], np.int64),
        "columns": np.array([1], np.int64),
        "last": np.array([-1], np.int64),
        "counted": np.array([COUNTED], np.int64),
    }
    outputs = [_float("anomaly_map", ["N", "h", "w"]), _float("anomaly_score", ["N"])]
    if types:
        nodes += [
            helper.make_node("Conv", ["features", "weight", "offset"], ["defect_maps"]),
            helper.make_node("GlobalMaxPool", ["defect_maps"], ["strongest"]),
            helper.make_node("Flatten", ["strongest"], ["logits"]),
        ]
        weight = np.zeros((types, FEATURES, 1, 1), np.float32)
        weight[np.arange(types), np.arange(types) % 2] = _HEAD_GAIN
        constants["weight"] = weight
        constants["offset"] = np.full(types, _HEAD_OFFSET - _HEAD_GAIN / 2, np.float32)
        outputs += [_float("logits", ["N", types]), _float("defect_maps", ["N", types, "h", "w"])]
    _write_graph(path, nodes, [_float("bank", ["M", FEATURES + 2])], outputs, constants, comment)


def _write_graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: _Constants,
    comment: str = "",
) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIDE_PX, SIDE_PX, 1])
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", [image, *inputs], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, doc_string=comment)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _patch_nodes() -> list[onnx.NodeProto]:
    """Nodes for the three features of each patch: darkest pixel, brightest pixel, mean."""
    return [
        helper.make_node("Cast", ["image"], ["image_f32"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["image_f32"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["nchw", "full_scale"], ["bright"]),
        helper.make_node("Sub", ["one", "bright"], ["dark"]),
        _pool("MaxPool", "dark", "darkest"),
        _pool("MaxPool", "bright", "brightest"),
        _pool("AveragePool", "bright", "mean"),
        helper.make_node("Concat", ["darkest", "brightest", "mean"], ["features"], axis=1),
        helper.make_node("Sub", ["features", "center"], [PATCHES_KEY]),
    ]


def _patch_constants() -> _Constants:
    return {"full_scale": np.float32(255), "one": np.float32(1), "center": CENTER.reshape(1, FEATURES, 1, 1)}


def _search_nodes() -> list[onnx.NodeProto]:
    """Nodes as in `edge.anomaly.distances_to_rows`: the nearest row, then the distance from the difference.

    The bank's rows are folded (`edge.anomaly.folded_rows`): features, weight and norm, the last two negative.
    """
    return [
        helper.make_node("Transpose", [PATCHES_KEY], ["queries"], perm=[0, 2, 3, 1]),
        helper.make_node("Split", ["bank", "features_weight_norm"], ["rows", "weight_column", "norm_column"], axis=1),
        helper.make_node("Squeeze", ["weight_column", "columns"], ["weights"]),
        helper.make_node("Squeeze", ["norm_column", "columns"], ["norms"]),
        helper.make_node("Transpose", ["rows"], ["row_columns"], perm=[1, 0]),
        helper.make_node("MatMul", ["queries", "row_columns"], ["cross"]),
        helper.make_node("ReduceSumSquare", ["queries"], ["query_norms"], axes=[-1], keepdims=1),
        helper.make_node("Mul", ["query_norms", "weights"], ["weighted"]),
        helper.make_node("Add", ["cross", "weighted"], ["partly"]),
        helper.make_node("Add", ["partly", "norms"], ["closeness"]),
        helper.make_node("ArgMax", ["closeness"], ["winners"], axis=-1, keepdims=0),
        helper.make_node("Gather", ["rows", "winners"], ["weighted_nearest"], axis=0),
        helper.make_node("Gather", ["weight_column", "winners"], ["minus_weight"], axis=0),
        helper.make_node("Neg", ["minus_weight"], ["winner_weight"]),
        helper.make_node("Mul", ["winner_weight", "two"], ["divisor"]),
        helper.make_node("Div", ["weighted_nearest", "divisor"], ["nearest"]),
        helper.make_node("Sub", ["queries", "nearest"], ["difference"]),
        helper.make_node("ReduceSumSquare", ["difference"], ["squared_length"], axes=[-1], keepdims=1),
        helper.make_node("Mul", ["squared_length", "winner_weight"], ["squared_distance"]),
        helper.make_node("Sqrt", ["squared_distance"], ["distance"]),
        helper.make_node("Squeeze", ["distance", "last"], ["anomaly_map"]),
        helper.make_node("Flatten", ["anomaly_map"], ["distances"]),
        helper.make_node("TopK", ["distances", "counted"], ["farthest", "places"], axis=1),
        helper.make_node("ReduceMean", ["farthest"], ["anomaly_score"], axes=[1], keepdims=0),
    ]


def _pool(kind: str, source: str, result: str) -> onnx.NodeProto:
    return helper.make_node(kind, [source], [result], kernel_shape=[PATCH_PX] * 2, strides=[PATCH_PX] * 2)


def _float(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
