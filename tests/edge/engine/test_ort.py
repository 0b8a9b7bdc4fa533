"""ONNX Runtime's engine: graphs that do not fit the contract, and closing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edge.engine.ort import OrtEngine
from edge.engine.protocol import EngineError
from edge.errors import ProcunitError
from tests.support.tiny_graph import FEATURES, SIDE_PX, write_tiny_graph

BANK = np.ones((4, FEATURES + 1), np.float32)
TILES = np.zeros((1, SIDE_PX, SIDE_PX, 1), np.uint8)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    write_tiny_graph(path, types=1)
    return path


def change_bank_axes(graph: Path, *sizes: str | int | None) -> None:
    """Give the graph's input `bank` these sizes: a name or None is an open axis."""
    model = onnx.load(graph)
    shape = next(node for node in model.graph.input if node.name == "bank").type.tensor_type.shape
    del shape.dim[:]
    for size in sizes:
        axis = shape.dim.add()
        if isinstance(size, int):
            axis.dim_value = size
        elif size is not None:
            axis.dim_param = size
    onnx.save(model, graph)


@pytest.mark.parametrize("axes", [("M", "features"), ("M", None)])
def test_a_graph_whose_number_of_features_is_open_is_refused(graph: Path, axes: tuple[str | None, ...]) -> None:
    change_bank_axes(graph, *axes)
    with pytest.raises(ProcunitError, match="its number of features is not fixed"):
        OrtEngine([graph], BANK, threads=1)


@pytest.mark.parametrize("bank", [BANK[:, :2], BANK[0], BANK[None]])
def test_a_bank_of_another_shape_is_refused_and_the_one_before_stays(graph: Path, bank: NDArray[np.float32]) -> None:
    engine = OrtEngine([graph], BANK, threads=1)
    before = engine.infer(TILES)
    with pytest.raises(ProcunitError, match="features per row, the graph needs 3"):
        engine.swap_bank(bank)
    np.testing.assert_array_equal(engine.infer(TILES).anomaly_score, before.anomaly_score)


def test_an_engine_is_closed_once_and_answers_no_more(graph: Path) -> None:
    engine = OrtEngine([graph], BANK, threads=1)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(TILES)
