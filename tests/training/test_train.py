"""`procunit train`: a data folder gives a complete RUN directory, or an error and no directory."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from calibration.cli import calibrate
from edge.bundle.reader import open_without_signature_check
from edge.engine.ort import OrtEngine
from edge.engine.scores import score_pixels
from edge.errors import ProcunitError
from edge.geometry import Region
from edge.image_file import read_image
from edge.preprocess import ignored_pixels
from export.cli import bundle_build, export
from tests.support.photographs import BACKBONE, HEIGHT_PX, WIDTH_PX, write_photographs, write_weights
from training.cli import train
from training.data.dataset import read_mask
from training.data.run_files import CHECKPOINT_FILE, TRAIN_FILE, TrainRecord, read_record
from training.model import model_from_checkpoint
from training.report.run_report import REPORT_FILE
from training.seeded import SEEDED_FILE
from training.train import SHEET_FILE
from training.weights import STAND_IN

TYPES = {"spot": 7, "line": 7}
PROCUNIT = "from edge.cli.main import main; main()"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "w.safetensors")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs") / "bracket", 10, TYPES)


@pytest.fixture(scope="module")
def run(photographs: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with seed 0, trained into an existing empty directory; tests only read it."""
    run = tmp_path_factory.mktemp("runs") / "run"
    run.mkdir()
    _trained(photographs, run, weights)
    return run


@pytest.fixture
def data(photographs: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(photographs, tmp_path / "data"))


def _train(data: Path, out: Path, weights: Path, *options: str) -> Result:
    arguments = ["--data", str(data), "--out", str(out), "--backbone", BACKBONE, "--weights", str(weights)]
    return CliRunner().invoke(train, [*arguments, "--input-px", "96", *options])


def _trained(data: Path, out: Path, weights: Path, *options: str) -> TrainRecord:
    result = _train(data, out, weights, *options)
    assert result.exception is None, result.output
    return read_record(out, TRAIN_FILE, TrainRecord)


def _refused(result: Result) -> str:
    assert isinstance(result.exception, ProcunitError), result.output
    return str(result.exception)


def test_a_run_holds_the_split_the_model_and_its_accuracy(run: Path) -> None:
    record = read_record(run, TRAIN_FILE, TrainRecord)
    names = [CHECKPOINT_FILE, SHEET_FILE, REPORT_FILE, SEEDED_FILE, TRAIN_FILE]
    assert sorted(path.name for path in run.iterdir()) == sorted(names)
    assert sorted(path.name for path in run.parent.iterdir()) == ["run"], "nothing half-written stays"
    assert (record.product, record.types, record.backbone) == ("bracket", ("line", "spot"), BACKBONE)
    assert (record.geometry.channels, record.geometry.input_height_px) == (1, 96)
    assert len(record.photos) == 2 * (10 + 7 + 7)
    sides = {(photo.label, photo.part_id): photo.role for photo in record.photos}
    assert [side for (label, _), side in sides.items() if label == "spot"].count("seed") == 5
    assert all(photo.mask == f"masks/{photo.file}" for photo in record.photos if photo.label != "good")
    assert min(record.out_of_fold_auc.values()) > 0.9, "a dark spot and a bright line are easy"
    assert model_from_checkpoint(run, record).head is not None


@pytest.mark.slow
def test_the_same_seed_gives_the_same_checkpoint(photographs: Path, weights: Path, run: Path, tmp_path: Path) -> None:
    first = _trained(photographs, tmp_path / "a", weights, "--seed", "3")
    again = _trained(photographs, tmp_path / "b", weights, "--seed", "3")
    assert first == again
    assert first.photos != read_record(run, TRAIN_FILE, TrainRecord).photos
    checkpoints = [(path / CHECKPOINT_FILE).read_bytes() for path in (tmp_path / "a", tmp_path / "b", run)]
    assert checkpoints[0] == checkpoints[1] != checkpoints[2]


@pytest.mark.slow
def test_a_csv_trains_the_same_as_its_folder(data: Path, weights: Path, tmp_path: Path) -> None:
    of_folder = _trained(data, tmp_path / "a", weights)
    with (data / "photos.csv").open("w", newline="") as stream:
        rows = [(photo.file, photo.label, photo.part_id, photo.mask) for photo in of_folder.photos]
        csv.writer(stream).writerows([("file", "label", "part_id", "mask"), *rows])
    of_csv = _trained(data / "photos.csv", tmp_path / "b", weights)
    assert of_csv == of_folder
    assert of_csv.data == str(data), "where the later stages find the photographs"
    assert (tmp_path / "a" / CHECKPOINT_FILE).read_bytes() == (tmp_path / "b" / CHECKPOINT_FILE).read_bytes()


def test_the_trunk_stays_as_the_weights_file_has_it(weights: Path, run: Path) -> None:
    found, wanted = load_file(run / CHECKPOINT_FILE), load_file(weights)
    trunk = {name.removeprefix("trunk."): tensor for name, tensor in found.items() if name.startswith("trunk.")}
    assert len(trunk) > 20
    assert all(tensor.equal(wanted[name]) for name, tensor in trunk.items())


def test_good_parts_alone_make_a_run_without_a_head(weights: Path, tmp_path: Path) -> None:
    data = write_photographs(tmp_path / "data", 4, {})
    record = _trained(data, tmp_path / "run", weights)
    assert record.types == ()
    assert model_from_checkpoint(tmp_path / "run", record).head is None


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "no masks"])
def test_defects_alone_are_trained_on_with_a_note(weights: Path, tmp_path: Path, masks: bool) -> None:
    data = write_photographs(tmp_path / "data", 0, {"spot": 3, "line": 3}, masks=masks)
    result = _train(data, tmp_path / "run", weights)
    assert result.exception is None
    assert "no good parts" in result.output
    assert read_record(tmp_path / "run", TRAIN_FILE, TrainRecord).types == ("line", "spot")


def test_one_type_of_one_part_is_trained(weights: Path, tmp_path: Path) -> None:
    record = _trained(write_photographs(tmp_path / "data", 3, {"spot": 1}), tmp_path / "run", weights)
    assert record.out_of_fold_auc == {}, "cross-validation needs two parts"


def test_ignored_areas_and_regions_of_the_folder_are_part_of_the_run(data: Path, weights: Path, tmp_path: Path) -> None:
    background = np.zeros((2 * HEIGHT_PX, 2 * WIDTH_PX), np.uint8)
    background[:20] = 255
    cv2.imwrite(str(data / "ignored.png"), background)
    (data / "geometry.yaml").write_text("regions: [{width: 0.6}, {x: 0.4, width: 0.6}]\nmm_per_px: 0.05\n")
    result = _train(data, tmp_path / "run", weights)
    assert result.exception is None, result.output
    assert "Inspected: 2 regions (1: x 0 to 0.6, y 0 to 1; 2: x 0.4 to 1, y 0 to 1), 17.1% of it ignored" in " ".join(
        result.output.split()
    )
    record = read_record(tmp_path / "run", TRAIN_FILE, TrainRecord)
    assert record.geometry.regions == (Region(width=0.6), Region(x=0.4, width=0.6))
    assert record.geometry.mm_per_px == 0.05
    assert ignored_pixels(HEIGHT_PX, WIDTH_PX, record.geometry)[:9].all()
    assert not ignored_pixels(HEIGHT_PX, WIDTH_PX, record.geometry)[11:].any()
    assert min(record.out_of_fold_auc.values()) > 0.9, "the visible rest of the defects can still be learned"


@pytest.mark.slow
def test_pixels_of_an_ignored_area_do_not_change_the_trained_model(data: Path, weights: Path, tmp_path: Path) -> None:
    (data / "geometry.yaml").write_text("ignored: [[[0, 0], [1, 0], [1, 0.25], [0, 0.25]]]")
    checkpoints = []
    for name in ("quiet", "noisy"):
        _trained(data, tmp_path / name, weights)
        checkpoints.append(load_file(tmp_path / name / CHECKPOINT_FILE))
        for photo in (path for label in ("good", *TYPES) for path in (data / label).iterdir()):
            pixels = read_image(photo)
            pixels[: HEIGHT_PX // 4 - 1] = np.random.default_rng(len(photo.name)).integers(0, 255, pixels.shape[1])
            cv2.imwrite(str(photo), pixels)
    quiet, noisy = checkpoints
    assert quiet.keys() == noisy.keys()
    assert all(tensor.equal(noisy[name]) for name, tensor in quiet.items())


@pytest.mark.slow
def test_ignored_areas_of_the_folder_are_ignored_by_the_bundle(weights: Path, tmp_path: Path) -> None:
    """All stages: with the bundle's geometry and graph, pixels of the ignored area do not change the scores."""
    data, run = write_photographs(tmp_path / "data", 8, {"spot": 3}), tmp_path / "run"
    background = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
    background[:14] = 255
    cv2.imwrite(str(data / "ignored.png"), background)
    record = _trained(data, run, weights)
    stages = ((export, [run]), (calibrate, [run]), (bundle_build, [run, "--out", tmp_path / "bundle"]))
    for command, arguments in stages:
        CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    bundle = open_without_signature_check(tmp_path / "bundle")
    assert bundle.manifest.geometry == record.geometry
    assert len(record.geometry.ignored) == 1
    quiet = read_image(data / "good/00-0.png")
    noisy, seen = quiet.copy(), quiet.copy()
    noisy[:13] = np.random.default_rng(0).integers(0, 256, (13, WIDTH_PX), np.uint8)
    seen[20:33] = noisy[:13]
    engine = OrtEngine(bundle.graphs(), bundle.bank(), threads=1)
    scores = [score_pixels(frame, bundle.manifest.geometry, engine)[0] for frame in (quiet, noisy, seen)]
    engine.close()
    assert scores[0].type_scores == scores[1].type_scores
    assert scores[0].anomaly_score == scores[1].anomaly_score < scores[2].anomaly_score


def test_one_colour_photograph_makes_three_channels(weights: Path, tmp_path: Path) -> None:
    data = write_photographs(tmp_path / "data", 3, {"spot": 3})
    grey = read_image(data / "good/00-0.png")
    cv2.imwrite(str(data / "good/00-0.png"), np.dstack([grey, grey, grey]))
    assert _trained(data, tmp_path / "grey", weights).geometry.channels == 1, "three equal channels are grey"
    cv2.imwrite(str(data / "good/00-0.png"), np.dstack([grey, grey, grey // 2]))
    assert _trained(data, tmp_path / "colour", weights).geometry.channels == 3


def _empty_class(data: Path) -> None:
    (data / "dent").mkdir()


def _unreadable(data: Path) -> None:
    (data / "spot/00-0.png").write_bytes(b"\x89PNG nothing more")


def _small(data: Path) -> None:
    cv2.imwrite(str(data / "line/01-1.png"), np.zeros((31, 200), np.uint8))


def _mask_of_another_shape(data: Path) -> None:
    cv2.imwrite(str(data / "masks/spot/00-0.png"), np.zeros((80, 80), np.uint8))


def _defect_outside_the_inspected_area(data: Path) -> None:
    mask_u8 = read_mask(data / "masks/spot/00-0.png", HEIGHT_PX, WIDTH_PX)
    cv2.imwrite(str(data / "ignored.png"), cv2.dilate(mask_u8, np.ones((9, 9), np.uint8)))


def _ignored_of_another_shape(data: Path) -> None:
    cv2.imwrite(str(data / "ignored.png"), np.zeros((80, 80), np.uint8))


def _everything_ignored(data: Path) -> None:
    cv2.imwrite(str(data / "ignored.png"), np.full((HEIGHT_PX, WIDTH_PX), 255, np.uint8))


def _unknown_key(data: Path) -> None:
    (data / "geometry.yaml").write_text("ignore: []")


def _odd_name(data: Path) -> None:
    (data / "spot").rename(data / "spot (new)")
    (data / "parts.csv").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_empty_class, "dent: the class folder holds no image"),
        (_unreadable, "spot/00-0.png: not a readable image"),
        (_small, "line/01-1.png: 200 x 31 px"),
        (_mask_of_another_shape, "masks/spot/00-0.png: the mask is 80 x 80 px"),
        (
            _defect_outside_the_inspected_area,
            "the whole defect lies outside the inspected area in 1 of the photographs: spot/00",
        ),
        (_ignored_of_another_shape, "good/00-0.png: 80 x 56 px, but ignored.png has the aspect ratio of 80 x 80 px"),
        (_everything_ignored, "region 1 (x 0 to 1, y 0 to 1) is wholly ignored"),
        (_unknown_key, "geometry.yaml:1: ignore: unknown key"),
        (_odd_name, "the name 'spot (new)' cannot be used"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    data: Path, weights: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(data)
    assert message in _refused(_train(data, tmp_path / "run", weights))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_masks_that_cover_everything_need_good_parts(weights: Path, tmp_path: Path) -> None:
    data = write_photographs(tmp_path / "data", 0, {"spot": 3})
    for mask in (data / "masks/spot").iterdir():
        cv2.imwrite(str(mask), np.full((HEIGHT_PX, WIDTH_PX), 255, np.uint8))
    assert "Add photographs of good parts" in _refused(_train(data, tmp_path / "run", weights))
    assert not (tmp_path / "run").exists()


def test_with_weights_that_do_not_fit_nothing_is_written(photographs: Path, tmp_path: Path) -> None:
    other = write_weights(tmp_path / "other.safetensors", "test_efficientnet_gn")
    assert f"do not fit {BACKBONE}" in _refused(_train(photographs, tmp_path / "run", other))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.safetensors"]


def test_an_earlier_run_is_replaced_only_with_force(
    photographs: Path, weights: Path, run: Path, tmp_path: Path
) -> None:
    earlier = Path(shutil.copytree(run, tmp_path / "run"))
    (earlier / "model.onnx").touch()
    assert "--force" in _refused(_train(photographs, earlier, weights))
    assert (earlier / "model.onnx").exists()
    _trained(photographs, earlier, weights, "--force")
    assert not (earlier / "model.onnx").exists(), "a graph of the earlier run does not fit the new one"


def test_a_directory_that_is_not_a_run_is_never_replaced(photographs: Path, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters/mine.txt").write_text("dear")
    assert "is not an earlier run" in _refused(_train(photographs, tmp_path / "letters", weights, "--force"))
    assert (tmp_path / "letters/mine.txt").read_text() == "dear"


def test_input_px_must_suit_the_strides(photographs: Path, weights: Path, tmp_path: Path) -> None:
    result = _train(photographs, tmp_path / "run", weights, "--input-px", "100")
    assert result.exit_code == 2
    assert "multiple of 32" in result.output


@pytest.mark.slow
def test_without_a_network_the_packaged_weights_are_used_with_a_warning(photographs: Path, tmp_path: Path) -> None:
    """In a separate process with an empty hub cache and a proxy address without a server."""
    command = [sys.executable, "-c", PROCUNIT, "train", "--data", str(photographs), "--out", str(tmp_path / "run")]
    environment = os.environ | {
        "HF_HOME": str(tmp_path / "cache"),
        "https_proxy": "http://127.0.0.1:9",
        "COLUMNS": "200",
    }
    done = subprocess.run([*command, "--input-px", "64"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"packaged {STAND_IN} is used instead of efficientnet_b3" in done.stderr
    assert read_record(tmp_path / "run", TRAIN_FILE, TrainRecord).backbone == STAND_IN
