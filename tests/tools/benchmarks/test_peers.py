"""The benchmark against anomalib, without anomalib itself: our laps, the folds, the figures, the tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console
from sklearn.metrics import roc_auc_score

from edge.errors import ProcunitError
from edge.geometry import Geometry
from tests.support.photographs import BACKBONE, write_photographs, write_weights
from tools.benchmarks.peers import children, contest
from tools.benchmarks.peers.__main__ import main
from tools.benchmarks.peers.contest import PeerSettings, layers_of_backbone, results_of_fold, share_of_rows
from tools.benchmarks.peers.figures import (
    ALL_DEFECTS,
    Accuracy,
    Auc,
    FoldResult,
    Scored,
    accuracy_from_results,
    pixel_auc,
    result_from_scores,
)
from tools.benchmarks.peers.patchcore_ours import score_by_ours
from tools.benchmarks.peers.photographs import FOLDS, Contest, Truth, contest_from_folder, folds_by_part, truth_of_photo
from tools.benchmarks.peers.points import FEATURES, exact_radius, write_points
from tools.benchmarks.peers.race import Heat, Lap, laps_of_heat
from tools.benchmarks.peers.report import accuracy_rows, contestant_rows, heading, race_rows, table_from_rows
from training.data.dataset import Photo
from training.near_duplicates import NearDuplicates, Pair
from training.weights import STAND_IN

INPUT_PX = 64


def photo(part: str, label: str = "good", copy: int = 0) -> Photo:
    return Photo(Path(f"{part}-{copy}.png"), f"{label}/{part}-{copy}.png", "0" * 64, part, label, None)


@pytest.fixture(scope="module")
def shared_contest(tmp_path_factory: pytest.TempPathFactory) -> Contest:
    """Six good parts and two with spots; it is only read."""
    folder = tmp_path_factory.mktemp("contest")
    data = write_photographs(folder / "data", 6, {"spot": 2})
    weights = write_weights(folder / "weights.safetensors")
    return contest_from_folder(data, BACKBONE, weights, INPUT_PX, folder, Console(quiet=True))


def nearest_of_100(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each other point's distance to the nearest of the first 100."""
    return np.asarray([np.linalg.norm(points[:100] - point, axis=1).min() for point in points[100:]])


def test_our_lap_is_timed_and_its_radius_computed(tmp_path: Path) -> None:
    (lap,) = laps_of_heat(Heat(1500, 60, 1, ("ours",)), tmp_path)
    assert (lap.side, lap.points, lap.rows) == ("ours", 1500, 60)
    assert 0 < lap.covering_radius < exact_radius(np.load(tmp_path / "points.npy"), np.arange(60))
    assert lap.seconds > 0
    assert lap.peak_mb > 10


def test_points_are_the_same_each_time_and_in_clusters(tmp_path: Path) -> None:
    for name in ("a.npy", "b.npy"):
        write_points(tmp_path / name, 3000)
    points = np.load(tmp_path / "a.npy")
    assert points.shape == (3000, FEATURES)
    assert points.dtype == np.float32
    assert np.array_equal(points, np.load(tmp_path / "b.npy"))
    unclustered = np.random.default_rng(1).permuted(points, axis=0)  # each feature's own spread, no clusters
    assert nearest_of_100(points).mean() < 0.8 * nearest_of_100(unclustered).mean()


def test_the_radius_is_exact_across_blocks() -> None:
    draw = np.random.default_rng(2)
    points = draw.standard_normal((2500, 7), np.float32) + 1000  # far off, where single precision would fail
    chosen = draw.choice(2500, 30, replace=False)
    wide = points.astype(np.float64)
    wanted = np.linalg.norm(wide[:, None] - wide[None, chosen], axis=2).min(1).max()
    assert exact_radius(points, chosen) == pytest.approx(wanted, rel=1e-9)


def test_a_missing_environment_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(children, "PEERS_PYTHON", tmp_path / "python")
    with pytest.raises(ProcunitError, match="make bench-peers"):
        children.run_side("anomalib", "lap")


def test_another_environment_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(children, "PEERS_PYTHON", tmp_path / "python")
    monkeypatch.setenv("PROCUNIT_PEERS_PYTHON", sys.executable)
    with pytest.raises(ProcunitError, match="lap of the side anomalib failed with exit status 1"):
        children.run_side("anomalib", "lap")


def test_a_side_that_fails_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ProcunitError, match="lap of the side ours failed with exit status 1"):
        children.run_side("ours", "lap")
    assert "ValueError" in capfd.readouterr().err


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["good", "good", "dent"])), min_size=1, max_size=60),
    st.integers(1, FOLDS),
)
def test_no_part_is_on_both_sides_of_a_fold(shown: list[tuple[int, str]], count: int) -> None:
    photos = [photo(f"p{part}", label, copy) for copy, (part, label) in enumerate(shown)]
    defective = {p.part_id for p in photos if p.label != "good"}
    good = {p.part_id for p in photos} - defective
    if len(good) < FOLDS or not defective:
        with pytest.raises(ProcunitError, match="good parts"):
            folds_by_part(photos, count)
        return
    folds = folds_by_part(photos, count)
    assert len(folds) == count
    scored_good: list[str] = []
    for fold in folds:
        banked = {photos[index].part_id for index in fold.bank}
        scored = {photos[index].part_id for index in fold.scored}
        assert banked.isdisjoint(scored)
        assert banked | scored == good | defective
        assert sorted(photos[index].part_id for index in fold.bank_one_a_part) == sorted(banked)
        assert set(fold.bank_one_a_part) <= set(fold.bank)
        assert all(photos[index].label != "good" or photos[index].part_id in good for index in fold.scored)
        scored_good += scored - defective
    assert len(scored_good) == len(set(scored_good))
    assert count < FOLDS or set(scored_good) == good


@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_pixel_auc_is_scikit_learns_ties_included(seed: int, levels: int) -> None:
    draw = np.random.default_rng(seed)
    maps = draw.integers(0, levels, (4, 8, 8)).astype(np.float32)
    windows = [(slice(0, 8), slice(2, 7)), (slice(1, 5), slice(0, 8)), (slice(0, 8), slice(0, 8))]
    defects = [draw.random(maps[0][window].shape) < 0.3 for window in windows]
    defects[0][0, 0], defects[1][0, 0] = True, False
    truths = [Truth(w, d) for w, d in zip(windows, defects, strict=True)] + [Truth(windows[2], None)]
    shown = np.concatenate([maps[i][w].ravel() for i, w in enumerate(windows)])
    truth = np.concatenate([d.ravel() for d in defects])
    assert pixel_auc(maps, truths) == pytest.approx(roc_auc_score(truth, shown), abs=1e-12)


def test_pixel_auc_needs_both_kinds_of_pixels() -> None:
    whole = (slice(0, 2), slice(0, 2))
    assert pixel_auc(np.zeros((1, 2, 2), np.float32), [Truth(whole, np.zeros((2, 2), np.bool_))]) is None
    assert pixel_auc(np.zeros((1, 2, 2), np.float32), [Truth(whole, None)]) is None


def test_figures_are_by_part_and_over_folds() -> None:
    photos = [photo("a"), photo("a", copy=1), photo("b"), photo("c", "dent"), photo("c", "dent", 1), photo("d", "rust")]
    results = [
        FoldResult(
            "x", "y 1.0", 10, 100, {0: 1.0, 1: 3.0, 3: 0.0, 4: 3.0, 5: 9.0}, 0.8
        ),  # a: 2; c: 1.5, then 1.75; d: 9
        FoldResult("x", "y 1.0", 12, 100, {2: 1.0, 3: 2.0, 4: 2.0, 5: 9.0}, 0.6),  # b: 1
    ]
    found = accuracy_from_results(results, photos)
    assert {name: auc.value for name, auc in found.aucs.items()} == {"dent": 0.5, "rust": 1.0, ALL_DEFECTS: 0.75}
    assert found.aucs["dent"].ci95 is None  # no interval from one part
    assert found.aucs[ALL_DEFECTS].ci95 is not None
    assert (found.bank_photos, found.bank_rows) == (11, 100)
    assert found.pixel_auc == pytest.approx(0.7)
    assert found.escapes == pytest.approx((0.49, 0.45))  # c lies between a and b: half a part is missed, less the rate


@pytest.mark.slow
def test_our_side_scores_with_the_exported_graph(shared_contest: Contest, tmp_path: Path) -> None:
    contest = shared_contest
    assert np.load(contest.inputs).shape == (16, INPUT_PX, INPUT_PX, 1)
    (fold,) = folds_by_part(contest.dataset.photos, 1)
    scored = score_by_ours(contest, fold.bank_one_a_part, fold.scored, tmp_path / "run", Console(quiet=True))
    assert scored.bank_rows <= len(fold.bank_one_a_part) * (INPUT_PX // 16) ** 2
    assert scored.maps.shape == (len(fold.scored), INPUT_PX, INPUT_PX)
    result = result_from_scores("ours", contest, fold, fold.bank_one_a_part, scored)
    spots = [s for index, s in result.scores.items() if contest.dataset.photos[index].label == "spot"]
    good = [s for index, s in result.scores.items() if contest.dataset.photos[index].label == "good"]
    assert min(spots) > max(good)
    assert result.pixel_auc is not None
    assert result.pixel_auc > 0.8


@pytest.mark.parametrize("on_gpu", [False, True])
def test_anomalib_has_all_photographs_only_on_a_gpu(
    on_gpu: bool, monkeypatch: pytest.MonkeyPatch, shared_contest: Contest
) -> None:
    def ours(met: Contest, bank: Sequence[int], scored: Sequence[int], *_: object) -> Scored:
        return Scored(np.zeros(len(scored)), np.zeros((len(scored), INPUT_PX, INPUT_PX), np.float32), len(bank), "ort")

    def anomalib(met: Contest, bank: Sequence[int], scored: Sequence[int], settings: PeerSettings, _: Path) -> Scored:
        rows = int(settings.share * len(bank) * (INPUT_PX // 8) ** 2)
        return replace(ours(met, bank, scored), bank_rows=rows, on_gpu=on_gpu)

    monkeypatch.setattr(contest, "score_by_ours", ours)
    monkeypatch.setattr(contest, "score_by_anomalib", anomalib)
    (fold,) = folds_by_part(shared_contest.dataset.photos, 1)
    one, everything = len(fold.bank_one_a_part), len(fold.bank)
    assert one < everything
    assert [
        (r.contestant, r.bank_photos, r.bank_rows) for r in results_of_fold(shared_contest, fold, Console(quiet=True))
    ] == [
        ("ours", one, one),
        ("anomalib, our settings", one, one),
        ("anomalib, its defaults", one, one * 64 // 10),
        ("ours, all photographs", everything, everything),
        ("anomalib, our settings, all photographs", everything, everything),
        ("anomalib, its defaults, all photographs", everything, everything * 64 // 10),
    ][: 6 if on_gpu else 4]


def test_look_alike_parts_are_joined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pair = Pair("good/00-0.png", "good/01-1.png", 0.5)
    monkeypatch.setattr("tools.benchmarks.joined_parts.near_duplicates", lambda *_: NearDuplicates((pair,), (), 16, 16))
    data, weights = write_photographs(tmp_path, 6, {"spot": 2}), write_weights(tmp_path / "w.safetensors")
    met = contest_from_folder(data, BACKBONE, weights, INPUT_PX, tmp_path, Console(quiet=True))
    parts = [photo.part_id for photo in met.dataset.photos]
    assert met.given_parts == 8
    assert len(set(parts)) == 7
    assert parts.count("good-00") == 4


def test_an_input_size_that_is_no_multiple_of_32_is_refused(tmp_path: Path) -> None:
    refused = CliRunner().invoke(main, ["accuracy", "--data", str(tmp_path), "--input-px", "100"])
    assert refused.exit_code == 2
    assert "multiple of 32" in refused.output


def test_masks_follow_the_letterboxed_part(shared_contest: Contest) -> None:
    inputs = np.load(shared_contest.inputs)
    for index, shown in enumerate(shared_contest.dataset.photos):
        truth = truth_of_photo(shown, shared_contest.geometry)
        part = inputs[index, ..., 0][truth.window]
        assert part.shape == (45, INPUT_PX)  # 56 x 80 px, letterboxed
        assert truth.defect is not None
        assert truth.defect.any() == (shown.label == "spot")
        if truth.defect.any():
            assert part[truth.defect].mean() < 40 < part[~truth.defect].mean()


def test_the_peers_take_our_strides_and_as_many_rows() -> None:
    assert layers_of_backbone(STAND_IN) == ["blocks.2", "blocks.4"]
    geometry = Geometry(input_height_px=320, input_width_px=320)
    for rows, photos in ((4096, 112), (1, 1), (1599, 1), (3200, 8)):
        assert int(share_of_rows(rows, photos, geometry) * photos * 1600) == rows
    assert share_of_rows(5000, 1, geometry) == 1.0


def test_tables_are_markdown() -> None:
    laps = [Lap("ours", "0.1.0", 50_000, 500, seconds, 300.4, 0.5) for seconds in (1.004, 2.0)]
    laps.append(Lap("anomalib", "2.7.0", 50_000, 500, 11.5, 900.0, 0.62346))
    assert table_from_rows(race_rows(laps)).splitlines() == [
        "| side | points | rows | seconds (each lap) | peak MB | covering radius |",
        "|---|---|---|---|---|---|",
        "| ours 0.1.0 | 50000 | 500 | 1.00, 2.00 | 300 | 0.5000, 0.5000 |",
        "| anomalib 2.7.0 | 50000 | 500 | 11.50 | 900 | 0.6235 |",
    ]
    found = Accuracy(
        "ours", "onnx 1", 112, 4096, {"dent": Auc(0.8765, (0.8, 0.9)), "rust": Auc(None, None)}, None, (0.1, None)
    )
    assert accuracy_rows([found])[1:] == [("dent", "0.876 (0.80 to 0.90)"), ("rust", "-")]
    assert contestant_rows([found])[1] == ("ours", "onnx 1", "112", "4096", "-", "10.0%", "-")


def test_the_heading_names_command_machine_and_versions() -> None:
    text = heading("python -m tools.benchmarks.peers coreset")
    assert "`python -m tools.benchmarks.peers coreset`" in text
    assert f"{len(os.sched_getaffinity(0))} cores" in text
    assert f"torch {version('torch')}" in text
