"""Augmentation of photographs within what a defect's physics allows, at native size; device preprocessing follows.

An augmentation is one warp of the pixels and one lookup table of grey levels. The frame keeps its size; pixels that a
rotation brings in at the border are mirrored from the frame, so no constant wedge reveals the rotation. The mask is
warped with its pixels, mirrored ones included, because a defect that is visible there is a defect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import GOOD
from edge.errors import ProcunitError
from edge.geometry import Geometry, Region
from edge.messages import PixelArray
from training.data.dataset_yaml import Augmentation, DatasetFile, Mirror

MIN_DEFECT_KEPT = 0.5
"""Share of the mask's area that must stay in the frame; with less, the label would have no defect left."""
MIN_FRAME_KEPT = 0.65
"""Share of the frame that must stay in it: 3:2 frames can rotate through 360 degrees, longer ones less."""
MAX_DRAWS = 10
PLACED_ROTATION_DEG, PLACED_ELASTIC = 2.0, 0.01
"""Limits if the geometry has regions or ignored areas, which are at fixed positions of the frame."""

_REFLECTIONS: Mapping[Mirror, int] = {"horizontal": 1, "vertical": 0}
"""The array axis that each one reverses."""
_MAX_SIDE_PX = 32766
_MASK_U8 = 127
_BENDS_PER_SIDE = 2
"""Independent displacements along the shorter side: few, because curved surfaces bend smoothly."""
_GRID_PER_BEND = 8
_MAX_BEND_DEG = 20.0


class Source(NamedTuple):
    """Where each pixel of the varied frame comes from, in pixels of the photograph: float32 [H, W] each."""

    x_px: NDArray[np.float32]
    y_px: NDArray[np.float32]


def augmented(
    pixels: PixelArray, mask_u8: NDArray[np.uint8] | None, augmentation: Augmentation, rng: np.random.Generator
) -> tuple[PixelArray, NDArray[np.uint8] | None]:
    """A random augmentation of a photograph and of its mask [H, W] (over 127 = defect), with the same shapes and types.

    At least half of the mask's area and 65 % of the frame stay in the frame: the warp is drawn again until they do, at
    most ten times; after that the frame is only mirrored, which loses nothing.

    Raises:
        ProcunitError: the frame is to be rotated or mirrored and has a side over 32766 px.
    """
    if augmentation.rotation_deg != 0 or augmentation.mirrors:
        height_px, width_px = pixels.shape[:2]
        source = _drawn_source(height_px, width_px, mask_u8, augmentation, rng)
        pixels = _warped(pixels, source, cv2.INTER_CUBIC)  # linear would blur: it keeps 70 % of the detail, this 86 %
        mask_u8 = None if mask_u8 is None else np.asarray(_warped(mask_u8, source, cv2.INTER_NEAREST), np.uint8)
    return _relit(pixels, augmentation, rng), mask_u8


def augmentation_in_geometry(augmentation: Augmentation, geometry: Geometry) -> Augmentation:
    """The settings, limited so that a part stays where the geometry expects it.

    Regions and ignored areas are at fixed positions of the frame. A part that rotates out of its region, or a fixture
    that rotates out of its ignored area, would be trained on with a wrong label. So with them every label may rotate by
    2 degrees and move by a hundredth of the shorter side, as parts do in their fixture, and nothing is mirrored;
    brightness and contrast vary as declared.
    """
    if geometry.regions == (Region(),) and not geometry.ignored:
        return augmentation
    limit_deg = PLACED_ROTATION_DEG if augmentation.rotation_deg is None else augmentation.rotation_deg
    return Augmentation(
        direction="directional",
        rotation_deg=min(limit_deg, PLACED_ROTATION_DEG),
        elastic=min(augmentation.elastic, PLACED_ELASTIC),
        brightness=augmentation.brightness,
        contrast=augmentation.contrast,
    )


def mirrors_of_all(dataset_file: DatasetFile, labels: Sequence[str], geometry: Geometry) -> tuple[Mirror, ...]:
    """The reflections that all labels allow, so that a reflection does not reveal the label."""
    allowed = [augmentation_in_geometry(dataset_file.augmentation_of(label), geometry).mirrors for label in labels]
    return tuple(mirror for mirror in _REFLECTIONS if all(mirror in of_label for of_label in allowed))


def reflected(
    pixels: PixelArray, mask_u8: NDArray[np.uint8] | None, mirrors: Sequence[Mirror], rng: np.random.Generator
) -> tuple[PixelArray, NDArray[np.uint8] | None]:
    """A photograph and its mask, mirrored by a random choice of one or more of `mirrors`, which must not be empty."""
    drawn = int(rng.integers(1, 1 << len(mirrors)))
    axes = tuple(_REFLECTIONS[mirror] for bit, mirror in enumerate(mirrors) if drawn >> bit & 1)
    shown: PixelArray = np.flip(pixels, axes).copy()
    return shown, None if mask_u8 is None else np.flip(mask_u8, axes).copy()


def beyond_good_warning(dataset_file: DatasetFile, types: Sequence[str], geometry: Geometry) -> str:
    """A warning that names the defect types augmented in ways in which good parts never are; empty if there are none.

    A network can recognize such a type by the rotation, the reflection or the light alone, without the defect.
    """
    beyond = types_varied_beyond_good(dataset_file, types, geometry)
    if not beyond:
        return ""
    return (
        f"{', '.join(beyond)}: augmented in ways in which {GOOD} parts are not, so a network may recognize them by "
        f"that alone. Give {GOOD} the widest settings of all types."
    )


def types_varied_beyond_good(dataset_file: DatasetFile, types: Sequence[str], geometry: Geometry) -> tuple[str, ...]:
    """The defect types whose photographs are augmented in ways in which those of good parts never are."""
    good = augmentation_in_geometry(dataset_file.augmentation_of(GOOD), geometry)
    by_type = {name: augmentation_in_geometry(dataset_file.augmentation_of(name), geometry) for name in types}
    return tuple(name for name, augmentation in by_type.items() if not _within(augmentation, good))


def _within(inner: Augmentation, outer: Augmentation) -> bool:
    """Whether every augmentation that `inner` allows is allowed by `outer`, too."""
    turns = outer.rotation_deg is None or (inner.rotation_deg is not None and inner.rotation_deg <= outer.rotation_deg)
    return (
        turns
        and set(inner.mirrors) <= set(outer.mirrors)
        and inner.elastic <= outer.elastic
        and inner.brightness <= outer.brightness
        and inner.contrast <= outer.contrast
    )


def _drawn_source(
    height_px: int,
    width_px: int,
    mask_u8: NDArray[np.uint8] | None,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> Source:
    if max(height_px, width_px) > _MAX_SIDE_PX:
        raise ProcunitError(
            f"{width_px} x {height_px} px; a frame with a side over {_MAX_SIDE_PX} px cannot be rotated or mirrored",
            remedy="Crop the photographs, or declare directional with rotation_deg: 0 and no mirror",
        )
    for _ in range(MAX_DRAWS):
        signs = _drawn_signs(augmentation, rng)
        limit_deg = augmentation.rotation_deg
        turn_deg = rng.uniform(0, 360) if limit_deg is None else rng.uniform(-limit_deg, limit_deg)
        max_bend_deg = _MAX_BEND_DEG if limit_deg is None else limit_deg - abs(turn_deg)
        source = _turned(height_px, width_px, turn_deg, signs)
        if augmentation.elastic:
            bend = _drawn_bend(height_px, width_px, augmentation.elastic, max_bend_deg, rng)
            source = Source(source.x_px + bend.x_px, source.y_px + bend.y_px)
        if _keeps_enough(source, mask_u8):
            return source
    return _turned(height_px, width_px, 0.0, signs)


def _keeps_enough(source: Source, mask_u8: NDArray[np.uint8] | None) -> bool:
    height_px, width_px = source.x_px.shape
    in_frame = (source.x_px > -0.5) & (source.x_px < width_px - 0.5)
    in_frame &= (source.y_px > -0.5) & (source.y_px < height_px - 0.5)
    if np.count_nonzero(in_frame) < MIN_FRAME_KEPT * in_frame.size:
        return False
    if mask_u8 is None:
        return True
    kept_u8 = cv2.remap(mask_u8, *source, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return bool(np.count_nonzero(kept_u8 > _MASK_U8) >= MIN_DEFECT_KEPT * np.count_nonzero(mask_u8 > _MASK_U8))


def _drawn_signs(augmentation: Augmentation, rng: np.random.Generator) -> tuple[int, int]:
    """Signs for x and y: -1 if the frame is mirrored along that axis."""
    mirrored = {mirror for mirror in augmentation.mirrors if rng.random() < 0.5}
    return -1 if "horizontal" in mirrored else 1, -1 if "vertical" in mirrored else 1


def _turned(height_px: int, width_px: int, turn_deg: float, signs: tuple[int, int]) -> Source:
    """A rotation around the frame's centre, after mirroring by `signs`."""
    cosine, sine = np.cos(np.deg2rad(turn_deg)), np.sin(np.deg2rad(turn_deg))
    middle_x_px, middle_y_px = (width_px - 1) / 2, (height_px - 1) / 2
    x_px, y_px = np.arange(width_px) - middle_x_px, np.arange(height_px)[:, None] - middle_y_px
    sign_x, sign_y = signs
    return Source(
        (sign_x * cosine * x_px).astype(np.float32) + (sign_x * sine * y_px + middle_x_px).astype(np.float32),
        (-sign_y * sine * x_px).astype(np.float32) + (sign_y * cosine * y_px + middle_y_px).astype(np.float32),
    )


def _drawn_bend(height_px: int, width_px: int, elastic: float, max_bend_deg: float, rng: np.random.Generator) -> Source:
    """Smooth displacements that rotate no line anywhere in the frame by more than `max_bend_deg`."""
    shorter_px = min(height_px, width_px)
    pitch_px = shorter_px / (_BENDS_PER_SIDE * _GRID_PER_BEND)
    rows, columns = round(height_px / pitch_px) + 1, round(width_px / pitch_px) + 1
    nodes = (rows // _GRID_PER_BEND + 2, columns // _GRID_PER_BEND + 2)
    grids = []
    for _ in Source._fields:
        drawn = rng.uniform(-1, 1, nodes).astype(np.float32)
        grid = cv2.resize(drawn, (columns, rows), interpolation=cv2.INTER_LINEAR)
        grids.append(cv2.blur(grid, (_GRID_PER_BEND + 1, _GRID_PER_BEND + 1)))
    moved_px = np.stack(grids).astype(np.float32)
    moved_px *= np.float32(rng.uniform(0, elastic) * shorter_px / np.hypot(*moved_px).max())
    steepest = _steepest(moved_px, height_px, width_px)
    if steepest > 0:
        moved_px *= np.float32(min(1.0, np.sin(np.deg2rad(max_bend_deg)) / steepest))
    return Source(*(cv2.resize(grid, (width_px, height_px), interpolation=cv2.INTER_LINEAR) for grid in moved_px))


def _steepest(moved_px: NDArray[np.float32], height_px: int, width_px: int) -> float:
    """The sine of the largest rotation of any line by displacements [2, rows, columns] interpolated over a frame.

    Within a cell of the grid the slopes lie between those of its edges, so the largest is at a corner.
    """
    rows, columns = moved_px.shape[1:]
    down, right = np.diff(moved_px, axis=1) * (rows / height_px), np.diff(moved_px, axis=2) * (columns / width_px)
    corners = [
        np.stack((right_edge, down_edge), axis=-1)
        for right_edge in (right[:, :-1], right[:, 1:])
        for down_edge in (down[:, :, :-1], down[:, :, 1:])
    ]
    slopes = np.stack(corners).transpose(0, 2, 3, 1, 4)
    return float(np.linalg.norm(slopes, 2, axis=(3, 4)).max())


def _warped(frame: PixelArray, source: Source, interpolation: int) -> PixelArray:
    warped = cv2.remap(frame, *source, interpolation, borderMode=cv2.BORDER_REFLECT_101)
    return cast(PixelArray, warped.reshape(frame.shape))  # OpenCV drops a single channel's axis


def _relit(pixels: PixelArray, augmentation: Augmentation, rng: np.random.Generator) -> PixelArray:
    """Random gain, and random contrast around the frame's mean, so that the mean changes by at most `brightness`.

    All channels get the same gain and offset, so hues do not change; alpha is left as it is.
    """
    gain = 1 + augmentation.brightness * rng.uniform(-1, 1)
    contrast = 1 + augmentation.contrast * rng.uniform(-1, 1)
    relit = pixels.copy()
    channels = relit[:, :, :3] if relit.ndim == 3 else relit
    full = np.iinfo(pixels.dtype).max
    levels, mean = np.arange(full + 1), float(channels.mean())
    table = np.rint(np.clip(gain * (mean + contrast * (levels - mean)), 0, full)).astype(pixels.dtype)
    channels[...] = table[channels]
    return relit
