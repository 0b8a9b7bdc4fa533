"""Augmentation stays within what a defect's physics allows, and uses all of it."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.errors import ProcunitError
from edge.geometry import Geometry, Region
from edge.messages import PixelArray
from training.augment import (
    augmentation_in_geometry,
    augmented,
    mirrors_of_all,
    reflected,
    types_varied_beyond_good,
)
from training.data.dataset_yaml import Augmentation, DatasetFile, Mirror, dataset_file_from_folder

STILL = Augmentation(direction="directional", rotation_deg=0.0, brightness=0.0, contrast=0.0)
ISOTROPIC = Augmentation(direction="isotropic", brightness=0.0, contrast=0.0)


def directional(rotation_deg: float, elastic: float = 0.0) -> Augmentation:
    return Augmentation(
        direction="directional", rotation_deg=rotation_deg, elastic=elastic, brightness=0.0, contrast=0.0
    )


def line(height_px: int, width_px: int) -> NDArray[np.uint8]:
    """A level line through the middle that ends well before the edges; its left end is thick."""
    frame = np.zeros((height_px, width_px), np.uint8)
    reach_px = min(height_px, width_px) // 3
    x_px, y_px = width_px // 2, height_px // 2
    cv2.line(frame, (x_px - reach_px, y_px), (x_px + reach_px, y_px), 255.0, 3)
    cv2.circle(frame, (x_px - reach_px, y_px), 6, 255.0, -1)
    return frame


def angle_deg(frame: PixelArray) -> float:
    """Of the line in a frame, 0 to 360: from its thin to its thick end."""
    y_px, x_px = np.nonzero(frame > 127)
    points = np.stack((x_px, y_px), axis=1).astype(np.float64)
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    axis = np.linalg.svd(points - points.mean(axis=0))[2][0]
    along = (points - middle) @ axis
    thick = axis if along.mean() > 0 else -axis
    return float(np.degrees(np.arctan2(thick[1], thick[0])) % 360)


def from_level_deg(frame: PixelArray) -> float:
    turned = (angle_deg(frame) - 180) % 360
    return min(turned, 360 - turned)


FORMATS: list[tuple[tuple[int, ...], type[np.uint8] | type[np.uint16]]] = [
    (shape, kind)
    for shape in ((60, 90), (60, 90, 1), (60, 90, 3), (60, 90, 4), (33, 32))
    for kind in (np.uint8, np.uint16)
]


@pytest.mark.parametrize(("shape", "kind"), FORMATS)
@pytest.mark.parametrize(
    "varied", [ISOTROPIC, directional(10, 0.03), Augmentation(direction="isotropic", elastic=0.05)]
)
def test_shape_and_type_are_kept_and_alpha_is_not_lit(
    shape: tuple[int, ...], kind: type[np.uint8] | type[np.uint16], varied: Augmentation
) -> None:
    rng = np.random.default_rng(3)
    pixels = cast(PixelArray, rng.integers(0, np.iinfo(kind).max, shape).astype(kind))
    if len(shape) == 3 and shape[2] == 4:
        pixels[:, :, 3] = np.iinfo(kind).max
    before = pixels.copy()
    found, mask_u8 = augmented(pixels, np.full(shape[:2], 255, np.uint8), varied, rng)
    np.testing.assert_array_equal(pixels, before)
    assert found.shape == shape
    assert found.dtype == kind
    assert mask_u8 is not None
    assert mask_u8.shape == shape[:2]
    assert mask_u8.dtype == np.uint8
    assert augmented(pixels, None, varied, rng)[1] is None
    if len(shape) == 3 and shape[2] == 4:
        assert (found[:, :, 3] == np.iinfo(kind).max).all()


def test_without_any_setting_the_pixels_are_the_photograph_s() -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (50, 70, 3)).astype(np.uint8)
    found, _ = augmented(pixels, None, STILL, np.random.default_rng(0))
    np.testing.assert_array_equal(found, pixels)


@pytest.mark.parametrize(("limit_deg", "elastic"), [(3, 0.0), (12, 0.0), (45, 0.0), (3, 0.05), (12, 0.05)])
def test_a_directional_type_never_turns_beyond_its_limit_bends_included(limit_deg: float, elastic: float) -> None:
    rng, frame = np.random.default_rng(0), line(180, 240)
    turns_deg = [from_level_deg(augmented(frame, None, directional(limit_deg, elastic), rng)[0]) for _ in range(60)]
    assert max(turns_deg) <= limit_deg + 0.3, "the angle of a line of 120 px is measured within 0.3 degrees"
    assert max(turns_deg) > 0.7 * limit_deg


def test_a_directional_type_is_mirrored_as_declared_alone() -> None:
    frame = np.zeros((40, 60), np.uint8)
    frame[:20, :30] = 200
    for mirror, seen in (((), 1), (("horizontal",), 2), (("vertical",), 2), (("horizontal", "vertical"), 4)):
        varied = Augmentation(direction="directional", rotation_deg=0, mirror=mirror, brightness=0, contrast=0)
        rng = np.random.default_rng(0)
        views = {augmented(frame, None, varied, rng)[0].tobytes() for _ in range(40)}
        assert len(views) == seen, mirror
        assert ("horizontal" in mirror) == (np.fliplr(frame).tobytes() in views)
        assert ("vertical" in mirror) == (np.flipud(frame).tobytes() in views)


@pytest.mark.parametrize("shape", [(160, 160), (160, 240)])
def test_an_isotropic_type_covers_the_circle(shape: tuple[int, int]) -> None:
    rng, frame = np.random.default_rng(0), line(*shape)
    sectors = {int(angle_deg(augmented(frame, None, ISOTROPIC, rng)[0]) // 30) for _ in range(120)}
    assert sectors == set(range(12))


def test_a_long_frame_turns_no_further_than_two_thirds_of_it_stay() -> None:
    rng, frame = np.random.default_rng(0), line(80, 400)
    turns_deg = [from_level_deg(augmented(frame, None, ISOTROPIC, rng)[0]) % 180 for _ in range(60)]
    from_axis_deg = [min(turn, 180 - turn) for turn in turns_deg]
    assert 5 < max(from_axis_deg) < np.degrees(np.arcsin(80 / (0.65 * 400))) + 1


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    x=st.floats(0.1, 0.9),
    y=st.floats(0.1, 0.9),
    elastic=st.sampled_from([0.0, 0.05]),
    varied=st.sampled_from([ISOTROPIC, directional(20)]),
)
def test_the_mask_moves_with_the_pixels(seed: int, x: float, y: float, elastic: float, varied: Augmentation) -> None:
    height_px, width_px = 120, 160
    pixels = np.full((height_px, width_px), 60, np.uint8)
    mask_u8 = np.zeros_like(pixels)
    cv2.ellipse(mask_u8, (int(x * width_px), int(y * height_px)), (22, 11), 30.0, 0.0, 360.0, 255.0, -1)
    pixels[mask_u8 > 0] = 220
    pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), 0.8), np.uint8)  # a lens's own
    varied = varied.model_copy(update={"elastic": elastic})
    found, found_mask_u8 = augmented(pixels, mask_u8, varied, np.random.default_rng(seed))
    assert found_mask_u8 is not None
    visible, masked = found > 140, found_mask_u8 > 127
    assert (visible & masked).sum() / (visible | masked).sum() > 0.8
    assert set(np.unique(found_mask_u8)) <= {0, 255}
    assert found.min() > 40, "the border shows the part, no constant wedge"


@pytest.mark.parametrize("at", [(4, 4), (155, 4), (4, 115), (155, 115), (80, 3)])
def test_at_least_half_of_the_mask_s_area_stays(at: tuple[int, int]) -> None:
    """A turn by 45 degrees would lose every corner."""
    mask_u8 = np.zeros((120, 160), np.uint8)
    cv2.circle(mask_u8, at, 3, 255.0, -1)
    pixels, area_px = mask_u8.copy(), np.count_nonzero(mask_u8)
    rng = np.random.default_rng(0)
    for _ in range(50):
        found, found_mask_u8 = augmented(pixels, mask_u8, ISOTROPIC, rng)
        assert found_mask_u8 is not None
        assert np.count_nonzero(found_mask_u8) >= 0.5 * area_px
        assert found.max() > 127


def test_a_mask_of_one_pixel_is_never_lost() -> None:
    mask_u8 = np.zeros((64, 64), np.uint8)
    mask_u8[1, 2] = 255
    rng = np.random.default_rng(0)
    for _ in range(50):
        found_mask_u8 = augmented(mask_u8, mask_u8, ISOTROPIC, rng)[1]
        assert found_mask_u8 is not None
        assert found_mask_u8.any()


@pytest.mark.parametrize(("kind", "level"), [(np.uint8, 25), (np.uint8, 150), (np.uint16, 30_000)])
def test_brightness_and_contrast_stay_within_their_limits(kind: type[np.uint8] | type[np.uint16], level: int) -> None:
    varied = Augmentation(direction="directional", rotation_deg=0, brightness=0.2, contrast=0.1)
    rng = np.random.default_rng(0)
    pixels = cast(PixelArray, rng.normal(level, level / 8, (64, 64)).round().astype(kind))
    views = [augmented(pixels, None, varied, rng)[0] for _ in range(80)]
    brightness = np.array([view.mean() / pixels.mean() for view in views])
    spread = np.array([(view.std() / view.mean()) / (pixels.std() / pixels.mean()) for view in views])
    assert 0.79 < brightness.min() < 0.85
    assert 1.15 < brightness.max() < 1.21
    rounding = 0.07 if level < 50 else 0.01
    assert 0.9 - rounding < spread.min() < 0.93
    assert 1.07 < spread.max() < 1.1 + rounding


def test_no_hue_changes() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 160, (32, 32, 3)).astype(np.uint8)
    varied = Augmentation(direction="directional", rotation_deg=0, brightness=0.3, contrast=0.3)

    def hue_deg(bgr_u8: PixelArray) -> NDArray[np.float32]:
        return np.asarray(cv2.cvtColor(bgr_u8.astype(np.float32), cv2.COLOR_BGR2HSV)[:, :, 0], np.float32)

    saturated = np.ptp(pixels, axis=2) > 40
    for _ in range(20):
        turned_deg = np.abs(hue_deg(augmented(pixels, None, varied, rng)[0]) - hue_deg(pixels))
        assert np.minimum(turned_deg, 360 - turned_deg)[saturated].max() < 4, "rounding to levels alone"


def test_the_same_seed_draws_the_same_views() -> None:
    pixels = np.random.default_rng(5).integers(0, 255, (64, 96, 3)).astype(np.uint8)
    mask_u8 = pixels[:, :, 0]
    varied = Augmentation(direction="isotropic", elastic=0.04)

    def views(seed: int) -> list[bytes]:
        rng = np.random.default_rng(seed)
        drawn = [augmented(pixels, mask_u8, varied, rng) for _ in range(4)]
        return [found.tobytes() + (b"" if mask is None else mask.tobytes()) for found, mask in drawn]

    assert views(1) == views(1)
    assert len({*views(1), *views(2)}) == 8


def test_regions_and_ignored_areas_leave_a_part_where_it_is() -> None:
    declared = Augmentation(direction="isotropic", elastic=0.05, brightness=0.3)
    assert augmentation_in_geometry(declared, Geometry()) == declared
    for placed in (
        Geometry(regions=(Region(width=0.5),)),
        Geometry(ignored=(((0.0, 0.0), (0.5, 0.0), (0.0, 0.5)),)),
    ):
        limited = augmentation_in_geometry(declared, placed)
        assert (limited.rotation_deg, limited.mirrors, limited.elastic) == (2.0, (), 0.01)
        assert (limited.brightness, limited.contrast) == (0.3, 0.1)
        assert augmentation_in_geometry(directional(1), placed).rotation_deg == 1
        assert augmentation_in_geometry(STILL, placed) == STILL


def test_types_that_a_network_could_recognize_by_their_rotation_are_named() -> None:
    safe_good = DatasetFile(augmentations={"pore": ISOTROPIC})
    types = ("crack", "pore")
    assert types_varied_beyond_good(safe_good, types, Geometry()) == ("pore",)
    assert types_varied_beyond_good(safe_good, types, Geometry(regions=(Region(width=0.5),))) == ()
    wide = Augmentation(direction="isotropic", elastic=0.05)
    wide_good = DatasetFile(augmentations={"good": wide, "pore": ISOTROPIC, "crack": directional(45, 0.01)})
    assert types_varied_beyond_good(wide_good, types, Geometry()) == ()


def test_a_frame_too_long_to_be_turned_is_refused_and_a_still_one_is_not() -> None:
    pixels = np.zeros((32, 32767), np.uint8)
    with pytest.raises(ProcunitError, match=r"32767 x 32 px; a frame with a side over 32766 px cannot be rotated"):
        augmented(pixels, None, directional(5), np.random.default_rng(0))
    assert augmented(pixels, None, STILL, np.random.default_rng(0))[0].shape == pixels.shape


def test_reflections_are_those_that_every_label_may_have(tmp_path: Path) -> None:
    labels, placed = ("good", "pore", "scoring"), Geometry(regions=(Region(width=0.5),))
    settings = "augmentation:\n  default: {direction: isotropic}\n  scoring: {direction: directional, rotation_deg: 3"
    for mirror, wanted in (("", ()), (", mirror: [vertical]", ("vertical",))):
        (tmp_path / "dataset.yaml").write_text(f"{settings}{mirror}}}\n", encoding="utf-8")
        file = dataset_file_from_folder(tmp_path)
        assert mirrors_of_all(file, labels, Geometry()) == wanted
        assert mirrors_of_all(file, labels, placed) == (), "regions are bound to places of the frame"
    assert mirrors_of_all(file, ("good", "pore"), Geometry()) == ("horizontal", "vertical")


@given(st.sampled_from([("horizontal",), ("vertical",), ("horizontal", "vertical")]), st.integers(0, 1000))
def test_a_reflection_is_never_the_photograph_and_its_mask_goes_with_it(mirrors: tuple[Mirror, ...], seed: int) -> None:
    pixels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    shown, mask_u8 = reflected(pixels, pixels + 100, mirrors, np.random.default_rng(seed))
    possible = {"horizontal": pixels[:, ::-1], "vertical": pixels[::-1]}
    wanted = [possible[mirror] for mirror in mirrors] + ([pixels[::-1, ::-1]] if len(mirrors) == 2 else [])
    assert any(np.array_equal(shown, allowed) for allowed in wanted)
    assert mask_u8 is not None
    np.testing.assert_array_equal(mask_u8, shown + 100)
