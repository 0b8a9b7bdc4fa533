"""The line simulator: same seed, same bytes; defects change what they should; folders are complete or not written."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from edge.camera.replay import replay_rows_from_csv
from edge.image_file import read_image
from tools.line_simulator.__main__ import main
from tools.line_simulator.defects import DEFECTS
from tools.line_simulator.part import GOOD, render_part
from tools.line_simulator.reflectance import MAX_SLOPE, ring_light_maps
from tools.line_simulator.schedule import DEAD_TIME, LinePart, line_schedule
from tools.line_simulator.surface import HEIGHT_PX, WIDTH_PX, good_surface, stamping
from tools.line_simulator.writing import write_line
from training.data.dataset import dataset_from_folder, read_mask

SMALL = ["--good", "3", "--scratch", "2", "--dent", "1", "--edge-crack", "1", "--coating-skip", "1"]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("kind", [GOOD, *DEFECTS])
def test_same_seed_same_bytes(kind: str) -> None:
    first, again, other = render_part((3, 1), kind), render_part((3, 1), kind), render_part((3, 2), kind)
    assert first.image_u8.shape == (HEIGHT_PX, WIDTH_PX)
    assert first.image_u8.tobytes() == again.image_u8.tobytes()
    assert first.image_u8.tobytes() != other.image_u8.tobytes()
    assert (first.mask_u8 is None) == (kind == GOOD)


@pytest.mark.parametrize("kind", list(DEFECTS))
def test_the_mask_covers_what_the_defect_changes(kind: str) -> None:
    seen = 0
    for number in range(12):
        good, defective = render_part((11, number)).image_u8, render_part((11, number), kind)
        assert defective.mask_u8 is not None
        assert set(np.unique(defective.mask_u8)) == {0, 255}
        changed = cv2.absdiff(good, defective.image_u8) > 10
        near_mask = cv2.dilate(defective.mask_u8, np.ones((9, 9), np.uint8)) > 0
        assert not (changed & ~near_mask).any()
        assert near_mask.mean() < 0.1
        seen += bool((changed & (defective.mask_u8 > 0)).any())
    assert seen >= 9, "some defects may be barely visible, most must be seen"


def test_a_coating_skip_keeps_the_shape_and_a_dent_keeps_the_material() -> None:
    before = good_surface(np.random.default_rng(1))
    skipped, dented = good_surface(np.random.default_rng(1)), good_surface(np.random.default_rng(1))
    DEFECTS["coating_skip"](skipped, np.random.default_rng(2))
    DEFECTS["dent"](dented, np.random.default_rng(2))
    assert np.array_equal(skipped.p, before.p)
    assert np.array_equal(skipped.q, before.q)
    assert skipped.bare.max() > 0.3
    assert not np.array_equal(dented.p, before.p)
    assert np.array_equal(dented.bare, before.bare)
    assert np.array_equal(dented.visibility, before.visibility)


def test_an_edge_crack_starts_at_an_edge_and_is_dark() -> None:
    for number in range(10):
        surface = good_surface(np.random.default_rng(number))
        before = surface.visibility.copy()
        coverage = DEFECTS["edge_crack"](surface, np.random.default_rng(number))
        assert stamping().edge_distance_px[coverage > 0.25].min() < 2
        assert (surface.visibility / before).min() < 0.5


def test_the_ring_lights_slopes_more_than_level_metal() -> None:
    maps = ring_light_maps()
    middle, mirror = maps.coated.shape[0] // 2, round(0.45 / (2 * MAX_SLOPE) * (maps.coated.shape[0] - 1))
    level = maps.coated[middle, middle]
    towards = [maps.coated[middle, middle + mirror], maps.coated[middle, middle - mirror]]
    assert min(towards) > 1.5 * level
    assert max(towards) > 1.2 * min(towards), "the ring has a bright side"
    assert maps.bare[middle, middle + mirror] > maps.coated[middle, middle + mirror]
    assert np.isfinite(maps.diffuse).all()


def test_a_dataset_is_what_the_product_reads(tmp_path: Path) -> None:
    run("dataset", "--out", str(tmp_path / "parts"), "--seed", "4", *SMALL)
    dataset = dataset_from_folder(tmp_path / "parts")
    assert dataset.types == tuple(sorted(DEFECTS))
    assert dataset.has_parts
    assert len({photo.part_id for photo in dataset.photos}) == len(dataset.photos) == 8
    for photo in dataset.photos:
        pixels = read_image(photo.path)
        assert (pixels.shape, pixels.dtype) == ((HEIGHT_PX, WIDTH_PX), np.dtype(np.uint8))
        assert (photo.mask is None) == (photo.label == GOOD)
        if photo.mask is not None:
            assert (read_mask(photo.mask, HEIGHT_PX, WIDTH_PX) > 127).any()
    listed = {row["file"]: row for row in _rows(tmp_path / "parts" / "parts.csv")}
    assert {file: row["defect_type"] for file, row in listed.items()} == {p.file: p.label for p in dataset.photos}
    assert all((tmp_path / "parts" / row["mask"]).is_file() for row in listed.values() if row["mask"])


def test_a_dataset_of_the_same_seed_has_the_same_bytes_and_a_larger_one_contains_it(tmp_path: Path) -> None:
    run("dataset", "--out", str(tmp_path / "a"), "--seed", "4", *SMALL)
    run("dataset", "--out", str(tmp_path / "b"), "--seed", "4", *SMALL, "--good", "4")
    for file in (path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png")):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert (tmp_path / "b" / "good" / "good_0004.png").is_file()


def test_a_line_is_what_the_replay_camera_reads(tmp_path: Path) -> None:
    run("line", "--out", str(tmp_path / "line"), "--parts", "9", "--defect-rate", "0.3", "--burst-length", "3")
    listed, replayed = _rows(tmp_path / "line" / "line.csv"), replay_rows_from_csv(tmp_path / "line" / "line.csv")
    assert [row["part_id"] for row in listed] == [row.part_id for row in replayed]
    assert [float(row["arrival_s"]) for row in listed] == [row.arrival_s for row in replayed]
    assert all(row.image.is_file() for row in replayed)
    assert {row["truth"] for row in listed} <= {GOOD, *DEFECTS}
    assert len(list((tmp_path / "line" / "images").iterdir())) == 9


def test_an_existing_folder_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    result = CliRunner().invoke(main, ["dataset", "--out", str(tmp_path / "parts"), *SMALL])
    assert result.exit_code == 1
    assert "exists already" in result.output
    assert list(tmp_path.rglob("*")) == [tmp_path / "parts"]


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> itertools.chain[LinePart]:
        def stop() -> LinePart:
            raise KeyboardInterrupt

        return itertools.chain([LinePart(1, 0.5, GOOD)], (stop() for _ in range(1)))

    with pytest.raises(KeyboardInterrupt):
        write_line(tmp_path / "line", 1, interrupted())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset", "--good", "0", "--scratch", "0", "--dent", "0", "--edge-crack", "0", "--coating-skip", "0"], "0"),
        (["line", "--parts", "2", "--bursts", "3"], "more bursts than parts"),
        (["line", "--defect-rate", "1.5"], "defect-rate"),
    ],
)
def test_impossible_options_are_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


def schedule(**changes: float) -> list[LinePart]:
    settings = {"seed": 5, "parts": 4000, "defect_rate": 0.1, "bursts": 0, "burst_length": 5, "parts_per_min": 120}
    return line_schedule(**{**settings, **changes})  # type: ignore[arg-type]


def test_arrivals_keep_the_rate_and_jitter_above_the_dead_time() -> None:
    gaps_s = np.diff([part.arrival_s for part in schedule()])
    assert gaps_s.mean() == pytest.approx(0.5, rel=0.03)
    assert gaps_s.min() >= DEAD_TIME * 0.5 - 1e-9
    assert gaps_s.std() == pytest.approx((1 - DEAD_TIME) * 0.5, rel=0.1)


def test_defects_keep_their_rate_and_every_type_comes() -> None:
    parts = schedule()
    defects = [part.truth for part in parts if part.truth != GOOD]
    assert len(defects) / len(parts) == pytest.approx(0.1, abs=0.02)
    assert set(defects) == set(DEFECTS)
    assert parts == schedule()
    assert parts != schedule(seed=6)


def test_bursts_are_runs_of_one_type() -> None:
    parts = schedule(parts=300, defect_rate=0, bursts=3, burst_length=7)
    runs = [(truth, len(list(group))) for truth, group in itertools.groupby(parts, key=lambda part: part.truth)]
    assert sum(length for truth, length in runs if truth != GOOD) == 21
    assert all(length % 7 == 0 for truth, length in runs if truth != GOOD)


def test_bursts_longer_than_the_line_are_cut() -> None:
    assert [part.truth != GOOD for part in schedule(parts=4, defect_rate=0, bursts=1, burst_length=9)] == [True] * 4


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))
