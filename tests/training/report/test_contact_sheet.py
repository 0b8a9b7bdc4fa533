"""The contact sheet, and `procunit augment-preview`, which writes it."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edge.errors import ProcunitError
from edge.geometry import Geometry, Region
from edge.image_file import read_image
from edge.preprocess import PADDING_U8
from tests.support.photographs import write_photographs
from training.augment_cli import augment_preview
from training.data.dataset import dataset_from_folder
from training.data.dataset_yaml import Augmentation, DatasetFile
from training.report.contact_sheet import CELL_PX, PARTS, VIEWS, contact_sheet, png_from_sheet

SMALL = Geometry(input_height_px=96, input_width_px=96)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("photographs") / "bracket", 3, {"spot": 3, "line": 1})


def _preview(data: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(augment_preview, ["--data", str(data), "--out", str(out), "--input-px", "96", *options])


def test_a_sheet_has_a_row_of_an_original_and_its_views_for_each_part(data: Path) -> None:
    photos = dataset_from_folder(data).photos
    sheet_bgr_u8 = contact_sheet(photos, DatasetFile(), SMALL, seed=0)
    rows = 2 * PARTS + 1  # of the type "line" there is one part
    assert sheet_bgr_u8.dtype == np.uint8
    assert sheet_bgr_u8.shape[1] > (VIEWS + 1) * CELL_PX
    assert rows * CELL_PX < sheet_bgr_u8.shape[0] < rows * CELL_PX + 500
    padding = (sheet_bgr_u8 == PADDING_U8).all(axis=2)
    padded = CELL_PX * CELL_PX * (1 - 56 / 80)
    assert padding.sum() == pytest.approx(rows * (VIEWS + 1) * padded, rel=0.1), "letterboxed as the network gets them"
    assert np.unique(sheet_bgr_u8[[0, -1]]).tolist() == [255]


def test_masks_are_outlined_and_good_parts_have_none(data: Path) -> None:
    photos = dataset_from_folder(data).photos
    for label, outlined in (("good", False), ("spot", True)):
        sheet_bgr_u8 = contact_sheet([p for p in photos if p.label == label], DatasetFile(), SMALL, seed=0)
        coloured = np.ptp(sheet_bgr_u8.astype(int), axis=2) > 100
        assert coloured.any() == outlined, label


def test_colour_photographs_and_every_tile_of_regions_can_be_shown(tmp_path: Path) -> None:
    photos = dataset_from_folder(write_photographs(tmp_path / "d", 2, {"spot": 1}, colour=True)).photos
    geometry = Geometry(
        input_height_px=64, input_width_px=96, channels=3, regions=(Region(width=0.5), Region(x=0.5, width=0.5))
    )
    dataset_file = DatasetFile(augmentations={"spot": Augmentation(direction="isotropic")})
    sheet_bgr_u8 = contact_sheet(photos, dataset_file, geometry, seed=0)
    assert (np.ptp(sheet_bgr_u8.astype(int), axis=2) > 30).mean() > 0.2


def test_a_seed_draws_the_sheet(data: Path) -> None:
    photos = dataset_from_folder(data).photos
    first, again, other = (contact_sheet(photos, DatasetFile(), SMALL, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or (first != other).any()


def test_the_png_is_the_sheet() -> None:
    sheet_bgr_u8 = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    png = png_from_sheet(sheet_bgr_u8)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), sheet_bgr_u8)


def test_the_command_writes_the_sheet_and_names_types_that_are_turned_more_than_good_parts(tmp_path: Path) -> None:
    data = write_photographs(tmp_path / "data", 2, {"spot": 2})
    (data / "dataset.yaml").write_text("augmentation:\n  spot: {direction: isotropic}\n")
    result = _preview(data, tmp_path / "sheet.png")
    assert result.exit_code == 0, result.output
    assert "spot: augmented in ways in which good parts are not" in " ".join(result.output.split())
    assert read_image(tmp_path / "sheet.png").shape[1] > (VIEWS + 1) * CELL_PX
    (data / "dataset.yaml").write_text("augmentation:\n  default: {direction: isotropic}\n")
    assert "augmented in ways" not in " ".join(_preview(data, tmp_path / "sheet.png").output.split())


def test_a_csv_gives_the_sheet_of_its_folder(tmp_path: Path) -> None:
    data = write_photographs(tmp_path / "data", 2, {"spot": 2})
    (data / "dataset.yaml").write_text("augmentation: {default: {direction: isotropic}}")
    rows = [(p.file, p.label, p.part_id, f"masks/{p.file}" if p.mask else "") for p in dataset_from_folder(data).photos]
    with (data / "photos.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("file", "label", "part_id", "mask"), *rows])
    for given, sheet in ((data, "folder.png"), (data / "photos.csv", "csv.png")):
        assert _preview(given, tmp_path / sheet).exception is None
    assert (tmp_path / "csv.png").read_bytes() == (tmp_path / "folder.png").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("augmentation: {spott: {direction: isotropic}}", "Did you mean 'spot'? Labels here: good, spot"),
        ("augmentation: {spot: {hue: 0.1}}", "augmentation.spot.hue: colour augmentation is refused"),
    ],
)
def test_nothing_is_written_where_the_file_does_not_fit(tmp_path: Path, content: str, message: str) -> None:
    data = write_photographs(tmp_path / "data", 1, {"spot": 1})
    (data / "dataset.yaml").write_text(content)
    result = _preview(data, tmp_path / "sheet.png")
    assert isinstance(result.exception, ProcunitError)
    assert message in str(result.exception)
    assert not (tmp_path / "sheet.png").exists()


def test_a_place_that_cannot_be_written_is_named(data: Path, tmp_path: Path) -> None:
    result = _preview(data, tmp_path / "nowhere" / "sheet.png")
    assert isinstance(result.exception, ProcunitError)
    assert "sheet.png: cannot be written: No such file or directory" in str(result.exception)
    assert "multiple of 32" in _preview(data, tmp_path / "sheet.png", "--input-px", "100").output
