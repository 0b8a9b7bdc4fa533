"""What half precision and INT8 may touch: the trunk and the head, never the search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from edge.engine_ort import OrtEngine
from edge.manifest import PRECISIONS, Precision
from export.graph import OPSET, search
from export.precision import folded, largest_activation
from export.quantize import QuantizedConv
from tests.export.graphs import MadeGraph, images, make_graph
from tests.rtx import built_engine_bytes

LAYOUT = {"Reshape", "Transpose"}
SEARCH_BOUND = 1e-3
"""The largest relative error of a distance."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeGraph:
    return make_graph(tmp_path_factory.mktemp("variants"), 2, 1)


class Nodes:
    """A graph's nodes by what they make and what they read, and the type of every value."""

    def __init__(self, path: Path) -> None:
        graph = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True).graph
        self.all = list(graph.node)
        self.maker = {name: node for node in graph.node for name in node.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        values = [*graph.input, *graph.output, *graph.value_info]
        self.type_of = {value.name: value.type.tensor_type.elem_type for value in values}
        self.type_of |= {tensor.name: tensor.data_type for tensor in graph.initializer}

    def that_depend_on(self, name: str) -> list[onnx.NodeProto]:
        reached, found = {name}, []
        for node in self.all:  # sorted by the format's own rule
            if reached & set(node.input):
                reached |= set(node.output)
                found.append(node)
        return found

    def before(self, name: str, *, skipping: set[str]) -> onnx.NodeProto:
        node = self.maker[name]
        return self.before(node.input[0], skipping=skipping) if node.op_type in skipping else node


@pytest.mark.parametrize("separate", [False, True], ids=["fused", "separate"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_search_is_fp32_on_centred_features(made: MadeGraph, precision: Precision, separate: bool) -> None:
    nodes = Nodes(made.paths(precision, separate=separate)[-1])
    searching = nodes.that_depend_on("bank")
    halves = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8}
    for node in searching:
        assert not halves & {nodes.type_of[name] for name in (*node.input, *node.output) if name}, node
    (product,) = [node for node in searching if node.op_type in ("Gemm", "MatMul")]
    scaled = nodes.before(product.input[0], skipping=LAYOUT)
    assert scaled.op_type == "Div"
    centred = nodes.before(scaled.input[0], skipping=set())
    assert centred.op_type == "Sub"
    np.testing.assert_array_equal(numpy_helper.to_array(nodes.constants[centred.input[1]]).ravel(), made.scale.mean)
    assert nodes.before(centred.input[0], skipping=set()).op_type == "Concat", "averaged and joined in FP32"
    assert nodes.type_of[centred.input[0]] == TensorProto.FLOAT


@pytest.mark.parametrize("separate", [False, True], ids=["fused", "separate"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_builds_an_engine_with_a_bank_that_may_grow(
    made: MadeGraph, precision: Precision, separate: bool
) -> None:
    for path in made.paths(precision, separate=separate):
        assert built_engine_bytes(path) > 10_000


def _features(count: int, seed: int) -> Tensor:
    """Patches [count, D] as a trunk gives them: far from zero against how little they vary."""
    draw = np.random.default_rng(seed)
    return torch.from_numpy((20 + 0.5 * draw.normal(size=(count, 184))).astype(np.float32))


def _worst_relative_error(found: NDArray[np.float32], queries: Tensor, bank: Tensor) -> float:
    exact = torch.cdist(queries.double(), bank.double(), compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    return float(np.abs(found.ravel() / exact.numpy() - 1).max())


def _searched(queries: Tensor, bank: Tensor) -> NDArray[np.float32]:
    return search(queries.t().reshape(1, -1, 1, len(queries)), bank).anomaly_map.float().numpy()


def test_the_search_keeps_its_bound_and_the_bound_tells_a_wrong_one() -> None:
    bank, queries = _features(500, 0), _features(100, 1)
    mean = bank.mean(0)
    assert _worst_relative_error(_searched(queries - mean, bank - mean), queries, bank) < SEARCH_BOUND / 10
    rounded = _searched(queries.half().float(), bank.half().float())
    assert _worst_relative_error(rounded, queries, bank) > SEARCH_BOUND, "half precision"
    closeness = queries.half().float() @ bank.half().float().t() - 0.5 * (bank * bank).sum(1)
    winners = (queries - bank[closeness.argmax(1)]).norm(dim=1)
    assert _worst_relative_error(winners.numpy(), queries, bank) > SEARCH_BOUND, "TF32, which has half's ten bits"


def test_folded_batch_norms_change_nothing(made: MadeGraph) -> None:
    tiles = images(1, 1)
    model = folded(made.graph.model, tiles)
    assert not [module for module in model.trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [module for module in made.graph.model.trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.inference_mode():
        for found, wanted in zip(
            model.taps(torch.from_numpy(tiles)), made.graph.model.taps(torch.from_numpy(tiles)), strict=True
        ):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_trunk_and_head_are_in_half_precision(made: MadeGraph, precision: Precision) -> None:
    nodes = Nodes(made.paths(precision)[0])
    convolutions = [node for node in nodes.all if node.op_type == "Conv"]
    whole = [node for node in convolutions if nodes.type_of[node.output[0]] == TensorProto.FLOAT]
    assert all(nodes.maker[node.input[0]].op_type == "DequantizeLinear" for node in whole)
    assert bool(whole) == (precision == "int8")
    heads = [node for node in nodes.all if node.op_type in ("Gemm", "MatMul") and "bank" not in node.input]
    assert TensorProto.FLOAT16 in {nodes.type_of[node.output[0]] for node in heads}


def test_int8_is_symmetric_and_leaves_out_what_loses_most(made: MadeGraph) -> None:
    nodes = Nodes(made.paths("int8")[0])
    for node in nodes.all:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert nodes.constants[node.input[2]].data_type == TensorProto.INT8
            assert not numpy_helper.to_array(nodes.constants[node.input[2]]).any()
            assert nodes.type_of[node.input[1]] == TensorProto.FLOAT
    quantized = [n for n in nodes.all if n.op_type == "Conv" and n.input[1] in nodes.maker]
    assert quantized
    for node in quantized:
        weight = nodes.maker[node.input[1]]
        levels = numpy_helper.to_array(nodes.constants[weight.input[0]])
        assert levels.dtype == np.int8
        assert numpy_helper.to_array(nodes.constants[weight.input[1]]).shape == levels.shape[:1], "a scale a channel"
        np.testing.assert_array_equal(np.abs(levels.astype(int)).max((1, 2, 3)), 127)
        assert levels.shape[1] > 3
        assert {a.name: a.i for a in node.attribute}.get("group", 1) == 1
    paths = {node.input[1] for node in nodes.all if node.op_type == "Conv"} & set(nodes.constants)
    assert any("conv_dw" in path for path in paths)
    assert any("conv_stem" in path for path in paths)
    assert all(".se." not in nodes.maker[n.input[1]].input[0] for n in quantized)


def test_a_quantized_convolution_is_the_same_in_onnx_as_in_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    conv = QuantizedConv(nn.Conv2d(8, 6, 3, stride=2, padding=1), largest_input=2.0).eval()
    features = torch.randn(2, 8, 12, 12)  # some beyond the range, which clips them
    torch.onnx.export(conv, (features,), tmp_path / "conv.onnx", input_names=["features"], opset_version=OPSET)
    session = onnxruntime.InferenceSession(tmp_path / "conv.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"features": features.numpy()})
    np.testing.assert_allclose(found, conv(features).numpy(), atol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_graphs_give_what_one_gives(made: MadeGraph, precision: Precision) -> None:
    tiles_u8 = images(2, 1, seed=9)
    engines = [OrtEngine(made.paths(precision, separate=separate), made.bank) for separate in (False, True)]
    fused, separate = (engine.infer(tiles_u8) for engine in engines)
    for name in ("logits", "defect_maps", "anomaly_map", "anomaly_score"):
        np.testing.assert_allclose(getattr(separate, name), getattr(fused, name), atol=1e-4)


def test_the_largest_activation_is_the_largest_of_any_layer(made: MadeGraph) -> None:
    model = folded(made.graph.model, images(1, 1))
    usual = largest_activation(model, [images(1, 1)])
    model.trunk.get_parameter("conv_stem.bias").data[0] = 7e4
    assert usual < 1e3
    assert largest_activation(model, [images(1, 1)]) >= 6.9e4
