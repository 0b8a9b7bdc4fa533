"""The exported graph: its contract, its numbers against torch and against float64, and that a wrong one is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper

from edge.engine_ort import OrtEngine
from edge.errors import ProcunitError
from edge.manifest import PRECISIONS, Precision
from edge.runfiles import Difference
from export.graph import search
from export.parity import check_difference, difference_of_graphs, reference_outputs
from tests.export.graphs import SIDE_PX, MadeGraph, images, make_graph

GRID = SIDE_PX // 16


@pytest.fixture(scope="module", params=[(3, 1), (0, 1), (2, 3)], ids=["head", "no head", "colour"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MadeGraph:
    types, channels = request.param
    return make_graph(tmp_path_factory.mktemp("graph"), types, channels)


def difference_from_torch(
    made: MadeGraph, path: Path, frames: list[NDArray[np.uint8]], rows: int | None = None
) -> Difference:
    bank = made.bank[:rows]
    return difference_of_graphs([path], bank, frames, reference_outputs(made.graph, bank, frames))


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim)


def test_names_types_and_shapes_are_the_contract_s(made: MadeGraph) -> None:
    graph = onnx.load(made.path).graph
    inputs = {value.name: value for value in graph.input}
    assert _shape(inputs["image"]) == ("tiles", SIDE_PX, SIDE_PX, made.geometry.channels)
    assert _shape(inputs["bank"]) == ("rows", made.bank.shape[1])
    assert inputs["image"].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    head = made.graph.model.head
    wanted: dict[str, tuple[int | str, ...]] = {"anomaly_map": ("tiles", GRID, GRID), "anomaly_score": ("tiles",)}
    if head is not None:
        types = head.patch.out_channels
        wanted = {"logits": ("tiles", types), "defect_maps": ("tiles", types, GRID, GRID), **wanted}
    assert {value.name: _shape(value) for value in graph.output} == wanted


def test_the_image_is_cast_before_anything_else(made: MadeGraph) -> None:
    readers = [node.op_type for node in onnx.load(made.path).graph.node if "image" in node.input]
    assert readers == ["Cast"]


@pytest.mark.parametrize("tiles", [1, 3])
@pytest.mark.parametrize("rows", [1, 50])
def test_any_number_of_tiles_and_rows_equals_torch(made: MadeGraph, tiles: int, rows: int) -> None:
    frames = [images(tiles, made.geometry.channels, seed=7)]
    difference = difference_from_torch(made, made.path, frames, rows)
    assert max(difference.logits, difference.distances) < 1e-4


def test_colour_is_read_as_bgr(tmp_path: Path) -> None:
    made = make_graph(tmp_path, 0, 3)
    tile = np.zeros((1, SIDE_PX, SIDE_PX, 3), np.uint8)
    tile[..., 2] = 255
    trunk = made.graph.model.trunk
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, SIDE_PX, SIDE_PX)
    mean, spread = made.graph.model.pixel_mean / 255, made.graph.model.pixel_std / 255
    with torch.no_grad():
        torch.testing.assert_close(
            made.graph.model.taps(torch.from_numpy(tile)).stride8, trunk((red - mean) / spread)[0]
        )


def test_a_changed_weight_is_noticed(made: MadeGraph, tmp_path: Path) -> None:
    model = onnx.load(made.path)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("conv_stem.weight"))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(ProcunitError, match="differs from torch"):
        check_difference(
            difference_from_torch(made, tmp_path / "changed.onnx", [images(1, made.geometry.channels)]),
            "fp32",
            tmp_path,
        )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_an_output_that_is_no_number_is_noticed(made: MadeGraph, precision: Precision, tmp_path: Path) -> None:
    model = onnx.load(made.path)
    stem = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("conv_stem.weight"))
    stem.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stem) * np.float32(np.nan), stem.name))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(ProcunitError, match="differs from torch"):
        check_difference(
            difference_from_torch(made, tmp_path / "nan.onnx", [images(1, made.geometry.channels)]), precision, tmp_path
        )


def test_distances_of_the_graph_are_those_of_float64(made: MadeGraph) -> None:
    tiles_u8, bank = images(2, made.geometry.channels, seed=3), made.bank[::2]
    engine = OrtEngine([made.path], bank)
    found = engine.infer(tiles_u8).anomaly_map
    engine.close()
    with torch.no_grad():
        patches = made.graph.scaled_patches(made.graph.model.taps(torch.from_numpy(tiles_u8)))
    queries = patches.permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
    wanted = np.linalg.norm(queries[:, None] - bank.astype(np.float64), axis=2).min(1).reshape(found.shape)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@given(seed=st.integers(0, 1000), rows=st.integers(1, 40), shift=st.sampled_from([0.0, 3.0, 100.0]))
def test_the_search_is_exact_also_far_from_zero(seed: int, rows: int, shift: float) -> None:
    draw = np.random.default_rng(seed)
    patches = (draw.normal(size=(2, 9, 3, 4)) + shift).astype(np.float32)
    bank = (draw.normal(size=(rows, 9)) + shift).astype(np.float32)
    found = search(torch.from_numpy(patches), torch.from_numpy(bank))
    queries = patches.transpose(0, 2, 3, 1).reshape(-1, 9).astype(np.float64)
    wanted = np.linalg.norm(queries[:, None] - bank.astype(np.float64), axis=2).min(1).reshape(2, 3, 4)
    tolerance = 1e-4 if shift < 100 else 1e-2
    np.testing.assert_allclose(found.anomaly_map.numpy(), wanted, atol=tolerance)
    strongest = np.sort(wanted.reshape(2, -1), axis=1)[:, -10:].mean(1)
    np.testing.assert_allclose(found.anomaly_score.numpy(), strongest, atol=tolerance)
