"""The exported graph: its contract, its numbers against PyTorch and float64, and that a wrong graph is detected."""

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

from edge import preprocess
from edge.anomaly import folded_rows
from edge.bundle.manifest import PRECISIONS, Precision
from edge.engine.ort import OrtEngine
from edge.errors import ProcunitError
from export.graph.inspection_graph import inspected_patches, search
from export.graph.parity import check_difference, difference_of_graphs, reference_outputs
from tests.export import textbook
from tests.export.graphs import SIDE_PX, MadeGraph, images, make_graph
from training.data.run_files import Difference

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
    assert _shape(inputs["bank"]) == ("rows", made.bank.shape[1] + 1)
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


def test_a_changed_weight_is_detected(made: MadeGraph, tmp_path: Path) -> None:
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
def test_an_output_of_nan_is_detected(made: MadeGraph, precision: Precision, tmp_path: Path) -> None:
    model = onnx.load(made.path)
    stem = next(tensor for tensor in model.graph.initializer if tensor.name.endswith("conv_stem.weight"))
    stem.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stem) * np.float32(np.nan), stem.name))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(ProcunitError, match="differs from torch"):
        check_difference(
            difference_from_torch(made, tmp_path / "nan.onnx", [images(1, made.geometry.channels)]), precision, tmp_path
        )


def test_distances_and_score_of_the_graph_are_those_of_float64(made: MadeGraph) -> None:
    tiles_u8, bank = images(2, made.geometry.channels, seed=3), made.bank[::2]
    tiles_u8[1, :40] = preprocess.PADDING_U8
    engine = OrtEngine([made.path], bank)
    found = engine.infer(tiles_u8)
    engine.close()
    with torch.no_grad():
        patches = made.graph.patches(made.graph.model.taps(torch.from_numpy(tiles_u8))).permute(0, 2, 3, 1).numpy()
    wanted = textbook.distances(patches.reshape(-1, patches.shape[3]), bank).reshape(found.anomaly_map.shape)
    wanted[1, :2] = 0  # 32 px hold padding alone, the next patches 8 px of it
    np.testing.assert_allclose(found.anomaly_map, wanted, atol=1e-4)
    scores = [textbook.tile_score(wanted[0].ravel()), textbook.tile_score(wanted[1, 2:].ravel())]
    np.testing.assert_allclose(found.anomaly_score, scores, atol=1e-4)


@given(seed=st.integers(0, 1000), rows=st.integers(1, 40), repeated=st.integers(0, 20))
def test_the_search_is_exact_down_to_its_least_distance(seed: int, rows: int, repeated: int) -> None:
    draw = np.random.default_rng(seed)
    patches = draw.normal(size=(2, 9, 8, 9)).astype(np.float32)
    bank = np.column_stack([draw.normal(size=(rows, 9)), draw.uniform(0.5, 2, rows)]).astype(np.float32)
    of_patches = patches.transpose(0, 2, 3, 1).reshape(-1, 9)[:repeated]
    bank = np.concatenate([bank, np.column_stack([of_patches, np.ones(repeated)])]).astype(np.float32)
    inspected = draw.random((2, 8, 9)) < draw.choice([0.1, 0.5, 1.0])
    found = search(torch.from_numpy(patches), torch.from_numpy(inspected), torch.from_numpy(folded_rows(bank)))
    wanted = textbook.distances(patches.transpose(0, 2, 3, 1).reshape(-1, 9), bank).reshape(inspected.shape)
    np.testing.assert_allclose(found.anomaly_map.numpy(), np.where(inspected, wanted, 0), atol=1e-4)
    for tile in range(2):
        if inspected[tile].any():
            score = textbook.tile_score(wanted[tile][inspected[tile]])
            assert found.anomaly_score[tile].item() == pytest.approx(score, abs=1e-4)
        else:
            assert found.anomaly_score[tile] == 0


@given(seed=st.integers(0, 1000), height=st.integers(1, 12), width=st.integers(1, 12), noise=st.floats(0.0, 50.0))
def test_one_noisy_patch_moves_the_score_by_no_more_than_its_share(
    seed: int, height: int, width: int, noise: float
) -> None:
    draw = np.random.default_rng(seed)
    patches = torch.from_numpy(draw.normal(size=(1, 5, height, width)).astype(np.float32))
    rows = np.column_stack([draw.normal(size=(30, 5)), np.ones(30)]).astype(np.float32)
    bank = torch.from_numpy(folded_rows(rows))
    inspected = torch.ones(1, height, width, dtype=torch.bool)
    before = search(patches, inspected, bank)
    noisy = patches.clone()
    noisy[0, :, -1, -1] += noise
    after = search(noisy, inspected, bank)
    risen = abs(float(after.anomaly_map[0, -1, -1] - before.anomaly_map[0, -1, -1]))
    share = max(1, -(-height * width // 32))
    assert abs(float(after.anomaly_score - before.anomaly_score)) <= risen / share + 1e-4


@pytest.mark.parametrize("channels", [1, 3])
@given(seed=st.integers(0, 1000), share=st.sampled_from([0.0, 0.9, 0.999]))
def test_the_graph_inspects_the_same_patches_as_the_device(channels: int, seed: int, share: float) -> None:
    draw = np.random.default_rng(seed)
    tiles_u8 = draw.integers(0, 256, (2, 48, 64, channels), np.uint8)
    tiles_u8[draw.random((2, 48, 64)) < share] = preprocess.PADDING_U8
    found = inspected_patches(torch.from_numpy(tiles_u8)).numpy()
    np.testing.assert_array_equal(found, preprocess.inspected_patches(tiles_u8))


def test_padding_never_counts_but_a_border_of_another_grey_does(made: MadeGraph) -> None:
    tiles_u8 = np.full((3, SIDE_PX, SIDE_PX, made.geometry.channels), preprocess.PADDING_U8, np.uint8)
    tiles_u8[1] = preprocess.PADDING_U8 - 1
    tiles_u8[:2, 16:-16, 16:-16] = images(1, made.geometry.channels)[0, 16:-16, 16:-16]
    engine = OrtEngine([made.path], made.bank)
    framed, other_grey, empty = engine.infer(tiles_u8).anomaly_map
    engine.close()
    inside = np.zeros((GRID, GRID), np.bool_)
    inside[1:-1, 1:-1] = True
    assert (framed[~inside] == 0).all()
    assert (framed[inside] > 0).all()
    assert (other_grey > 0).all()
    assert (empty == 0).all()
