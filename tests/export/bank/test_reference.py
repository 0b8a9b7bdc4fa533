"""An exported run against a plain PatchCore in float64 on the same features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from edge.anomaly import distances_to_rows
from edge.bundle.manifest import PATCHES_GRAPH, PATCHES_KEY
from edge.bundle.reader import bank_from_file
from edge.engine.ort import OrtEngine, session_from_graph
from edge.preprocess import inspected_patches
from export.bank.candidates import tiles_from_photo
from tests.export import textbook
from tests.export.textbook import Floats
from training.data.run_files import (
    BANK_FILE,
    EXPORT_FILE,
    TRAIN_FILE,
    ExportRecord,
    TrainRecord,
    graphs_of_run,
    read_record,
)


@dataclass(frozen=True)
class Photograph:
    """Outputs of the exported graphs for a photograph's one tile: inspected patches, their distances, the score."""

    patches: Floats
    distances: Floats
    score: float


@pytest.fixture(scope="module")
def bank(exported: Path) -> Floats:
    return bank_from_file(exported / BANK_FILE)


def photographs(run: Path, bank: Floats) -> list[Photograph]:
    """All photographs of the run, seeded ones and defects too."""
    record = read_record(run, TRAIN_FILE, TrainRecord)
    engine = OrtEngine(graphs_of_run(run, read_record(run, EXPORT_FILE, ExportRecord)), bank, threads=1)
    session = session_from_graph(run / PATCHES_GRAPH, threads=1)
    found = []
    for photo in record.photos:
        tiles_u8 = tiles_from_photo(photo, record)
        inspected = inspected_patches(tiles_u8)[0].ravel()
        (maps,) = session.run([PATCHES_KEY], {"image": tiles_u8})
        patches = np.asarray(maps, np.float32)[0].transpose(1, 2, 0).reshape(-1, bank.shape[1] - 1)[inspected]
        outputs = engine.infer(tiles_u8)
        distances = outputs.anomaly_map.ravel()[inspected]
        found.append(Photograph(patches, distances, float(outputs.anomaly_score[0])))
    engine.close()
    return found


def test_graph_and_device_give_the_distances_and_the_ranking_of_plain_patchcore(exported: Path, bank: Floats) -> None:
    shown = photographs(exported, bank)
    wanted = [textbook.distances(one.patches, bank) for one in shown]
    for one, exact in zip(shown, wanted, strict=True):
        np.testing.assert_allclose(one.distances, exact, atol=1e-4)
        np.testing.assert_allclose(distances_to_rows(one.patches, bank), exact, atol=1e-4)
    scores = np.array([textbook.tile_score(exact) for exact in wanted])
    found = np.array([one.score for one in shown])
    np.testing.assert_allclose(found, scores, atol=1e-4)
    higher, wanted_higher = (values[:, np.newaxis] - values for values in (found, scores))
    clear = np.abs(wanted_higher) > 2e-4
    assert (np.sign(higher[clear]) == np.sign(wanted_higher[clear])).all()
    assert clear.mean() > 0.9


def test_with_a_local_scale_of_one_it_is_the_nearest_neighbour(exported: Path, bank: Floats) -> None:
    plain = bank.copy()
    plain[:, -1] = 1
    neighbours = NearestNeighbors(n_neighbors=1, algorithm="kd_tree").fit(bank[:, :-1].astype(np.float64))
    for one in photographs(exported, plain)[::4]:
        wanted = np.maximum(neighbours.kneighbors(one.patches.astype(np.float64))[0][:, 0], textbook.LEAST)
        np.testing.assert_allclose(one.distances, wanted, atol=1e-4)
        np.testing.assert_allclose(distances_to_rows(one.patches, plain), wanted, atol=1e-4)
