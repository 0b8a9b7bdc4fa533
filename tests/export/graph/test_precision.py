"""Half precision and INT8 apply to the trunk and the head, never to the search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from edge.anomaly import folded_rows
from edge.bundle.manifest import PATCHES_GRAPH, PRECISIONS, Precision
from edge.bundle.onnx_walk import check_graph, operators_of_graph
from edge.engine.ort import OrtEngine
from export.bank.memory_bank import rows_with_local_scale
from export.bank.space import FEATURES
from export.graph.inspection_graph import OPSET, PatchesGraph, onnx_from_graph, search
from export.graph.precision import fold_batch_norms, largest_activation
from export.graph.quantize import QuantizedConv
from tests.export import textbook
from tests.export.graphs import Floats, MadeGraph, images, make_graph
from tests.support.rtx import built_engine_bytes

LAYOUT = {"Reshape", "Transpose"}
FORMS = [False, pytest.param(True, marks=pytest.mark.slow)]
"""Separate graphs are made on request alone (`procunit export --separate`)."""
ONE_FAST = [pytest.param(p, marks=() if p == "int8" else pytest.mark.slow) for p in PRECISIONS]
"""Every precision, those of floating point among the slow tests: INT8 has all their operators and its own."""
SEARCH_BOUND = 1e-3
"""The largest relative error of a distance."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeGraph:
    return make_graph(tmp_path_factory.mktemp("variants"), 2, 1)


class Nodes:
    """A graph's nodes by their outputs and inputs, and the type of every value."""

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
        for node in self.all:  # the format requires topological order
            if reached & set(node.input):
                reached |= set(node.output)
                found.append(node)
        return found

    @property
    def queries(self) -> str:
        """The query patches [P, D], before their squares are appended for the matrix product."""
        (product,) = [node for node in self.that_depend_on("bank") if node.op_type in ("Gemm", "MatMul")]
        joined = self.before(product.input[0], skipping=set())
        assert joined.op_type == "Concat"
        return str(joined.input[0])

    def before(self, name: str, *, skipping: set[str]) -> onnx.NodeProto:
        node = self.maker[name]
        return self.before(node.input[0], skipping=skipping) if node.op_type in skipping else node


@pytest.mark.parametrize("separate", FORMS, ids=["fused", "separate"])
@pytest.mark.parametrize("precision", ONE_FAST)
def test_the_search_is_fp32_on_centred_features(made: MadeGraph, precision: Precision, separate: bool) -> None:
    nodes = Nodes(made.paths(precision, separate=separate)[-1])
    searching = nodes.that_depend_on("bank")
    halves = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8}
    for node in searching:
        assert not halves & {nodes.type_of[name] for name in (*node.input, *node.output) if name}, node
    projected = nodes.before(nodes.queries, skipping=LAYOUT)
    assert projected.op_type == "Conv"
    projection = numpy_helper.to_array(nodes.constants[projected.input[1]])
    np.testing.assert_array_equal(projection[:, :, 0, 0].T, made.space.projection)
    centred = nodes.before(projected.input[0], skipping=set())
    assert centred.op_type == "Sub"
    np.testing.assert_array_equal(numpy_helper.to_array(nodes.constants[centred.input[1]]).ravel(), made.space.mean)
    assert nodes.before(centred.input[0], skipping=set()).op_type == "Concat", "averaged and joined in FP32"
    assert nodes.type_of[centred.input[0]] == TensorProto.FLOAT


@pytest.mark.parametrize("separate", FORMS, ids=["fused", "separate"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_builds_an_engine_with_a_bank_that_may_grow(
    made: MadeGraph, precision: Precision, separate: bool
) -> None:
    for path in made.paths(precision, separate=separate):
        assert built_engine_bytes(path) > 10_000


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_distances_of_every_precision_are_those_of_float64(made: MadeGraph, precision: Precision) -> None:
    path, tiles_u8, bank = made.paths(precision)[0], images(3, 1, seed=5), made.bank[::2]
    model, name = onnx.load(path), Nodes(path).queries
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found, queries = session.run(["anomaly_map", name], {"image": tiles_u8, "bank": folded_rows(bank)})
    rounded, _ = session.run(["anomaly_map", name], {"image": tiles_u8, "bank": _rounded(folded_rows(bank))})
    error, of_half_precision = (_worst_relative_error(one, queries, bank) for one in (found, rounded))
    assert error < SEARCH_BOUND / 10 < of_half_precision


def _features(count: int, seed: int) -> Floats:
    """Patches [count, D] like those of a trunk: far from zero compared with how little they vary."""
    return (20 + 0.5 * np.random.default_rng(seed).normal(size=(count, FEATURES))).astype(np.float32)


def _rounded(values: Floats) -> Floats:
    """Round to ten bits, as half precision and TF32 do."""
    return values.astype(np.float16).astype(np.float32)


def _worst_relative_error(found: Floats, queries: Floats, bank: Floats) -> float:
    return float(np.abs(found.ravel() / textbook.distances(queries, bank) - 1).max())


def _searched(queries: Floats, bank: Floats) -> Floats:
    patches = torch.from_numpy(queries.T.reshape(1, -1, 1, len(queries)))
    judged = torch.ones(1, 1, len(queries), dtype=torch.bool)
    return search(patches, judged, torch.from_numpy(folded_rows(bank))).anomaly_map.numpy()


def _searched_in_tf32(queries: Floats, bank: Floats) -> Floats:
    """The search with the factors of its matrix product rounded; distances still from the difference."""
    weights = 1 / np.square(bank[:, -1])
    columns = np.column_stack([2 * weights[:, np.newaxis] * bank[:, :-1], -weights])
    offsets = weights * np.square(bank[:, :-1]).sum(1)
    squares = np.square(queries).sum(1)
    joined = np.column_stack([queries, squares]).astype(np.float32)
    winners = bank[(np.matmul(_rounded(joined), _rounded(columns.astype(np.float32)).T) - offsets).argmax(1)]
    return np.asarray(np.linalg.norm(queries - winners[:, :-1], axis=1) / winners[:, -1], np.float32)


def test_the_search_keeps_its_error_bound_and_imprecise_ones_exceed_it() -> None:
    rows, queries = _features(500, 0), _features(100, 1)
    mean = rows.mean(0)
    far = rows_with_local_scale(torch.from_numpy(rows)).numpy()
    centred = np.column_stack([rows - mean, far[:, -1]])
    assert _worst_relative_error(_searched(queries - mean, centred), queries, far) < SEARCH_BOUND / 10
    half_precision = _searched(_rounded(queries), _rounded(far))
    assert _worst_relative_error(half_precision, queries, far) > SEARCH_BOUND, "half precision"
    in_tf32 = _searched_in_tf32(queries, far)
    assert _worst_relative_error(in_tf32, queries, far) > SEARCH_BOUND, "TF32 on features that are not centred"


def test_folded_batch_norms_change_nothing(made: MadeGraph) -> None:
    tiles = images(1, 1)
    model = fold_batch_norms(made.graph.model, tiles)
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
    projected = nodes.before(nodes.queries, skipping=LAYOUT)
    whole = [n for n in convolutions if nodes.type_of[n.output[0]] == TensorProto.FLOAT and n != projected]
    assert all(nodes.maker[node.input[0]].op_type == "DequantizeLinear" for node in whole)
    assert bool(whole) == (precision == "int8")
    heads = [node for node in nodes.all if node.op_type in ("Gemm", "MatMul") and "bank" not in node.input]
    assert TensorProto.FLOAT16 in {nodes.type_of[node.output[0]] for node in heads}


def test_int8_is_symmetric_and_skips_the_sensitive_convolutions(made: MadeGraph) -> None:
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
        assert numpy_helper.to_array(nodes.constants[weight.input[1]]).shape == levels.shape[:1], "per channel"
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
    features = torch.randn(2, 8, 12, 12)  # some are outside the range and get clipped
    torch.onnx.export(conv, (features,), tmp_path / "conv.onnx", input_names=["features"], opset_version=OPSET)
    session = onnxruntime.InferenceSession(tmp_path / "conv.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"features": features.numpy()})
    np.testing.assert_allclose(found, conv(features).numpy(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_separate_graphs_give_the_outputs_of_the_fused_graph(made: MadeGraph, precision: Precision) -> None:
    tiles_u8 = images(2, 1, seed=9)
    engines = [OrtEngine(made.paths(precision, separate=separate), made.bank) for separate in (False, True)]
    fused, separate = (engine.infer(tiles_u8) for engine in engines)
    for name in ("logits", "defect_maps", "anomaly_map", "anomaly_score"):
        np.testing.assert_allclose(getattr(separate, name), getattr(fused, name), atol=1e-4)


@pytest.mark.parametrize("precision", ONE_FAST)
def test_every_graph_that_export_writes_has_only_what_a_bundle_may_have(
    made: MadeGraph, precision: Precision, tmp_path: Path
) -> None:
    paths = [path for separate in (False, True) for path in made.paths(precision, separate=separate)]
    if precision == "fp32":
        paths.append(tmp_path / PATCHES_GRAPH)
        onnx_from_graph(PatchesGraph(made.model("fp32"), made.space), made.geometry, paths[-1])
    for path in paths:
        check_graph(path.read_bytes(), str(path))
        nodes = onnx.load(path).graph.node
        assert operators_of_graph(path.read_bytes(), str(path)) == [node.op_type for node in nodes]


def test_the_largest_activation_is_the_largest_of_any_layer(made: MadeGraph) -> None:
    model = fold_batch_norms(made.graph.model, images(1, 1))
    usual = largest_activation(model, [images(1, 1)])
    model.trunk.get_parameter("conv_stem.bias").data[0] = 7e4
    assert usual < 1e3
    assert largest_activation(model, [images(1, 1)]) >= 6.9e4
