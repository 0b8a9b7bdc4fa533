"""The inspected area as a data folder defines it: `geometry.yaml`, and `ignored.png` painted over a photograph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edge.config.yaml_file import YamlFileError, words_from_details
from edge.errors import ProcunitError
from edge.geometry import MAX_POLYGON_POINTS, MAX_POLYGONS, Geometry, Polygon, Region
from edge.image_file import read_image
from edge.preprocess import uninspected_pixels
from training.data.folder_yaml import folder_yaml_from_file

GEOMETRY_YAML, IGNORED_PNG = "geometry.yaml", "ignored.png"

_REMEDIES = {
    "regions": "Give a list of {x, y, width, height}, fractions of the frame's width and height",
    "ignored": f"Give a list of polygons, each a list of 3 to {MAX_POLYGON_POINTS} points [x, y] in fractions",
    "mm_per_px": "Give the size of a pixel in millimetres, a number above 0",
}
_PAINTED_U8 = 127
_MAX_GREY_SHARE, _BLACK_U8, _WHITE_U8 = 0.05, 32, 223
"""A painted mask has hardly any pixels between black and white; a photograph with a few white strokes has many."""
_TOLERANCE = 1 / 1000
"""How far an outline may be from the painted one, as a share of the longer side, but at least one pixel."""


@dataclass(frozen=True, slots=True)
class FolderGeometry:
    """The geometry of a data folder; `painted_size_px` is the height and width of its `ignored.png`."""

    geometry: Geometry
    painted_size_px: tuple[int, int] | None

    def check_frame(self, photo: Path, height_px: int, width_px: int) -> None:
        """Check one photograph's size.

        Raises:
            ProcunitError: `ignored.png` has another aspect ratio, or a region of the photograph is ignored completely.
        """
        if self.painted_size_px is not None:
            painted_height_px, painted_width_px = self.painted_size_px
            if abs(painted_height_px * width_px - painted_width_px * height_px) > max(width_px, height_px):
                raise ProcunitError(
                    f"{width_px} x {height_px} px, but {IGNORED_PNG} has the aspect ratio of {painted_width_px} x "
                    f"{painted_height_px} px",
                    where=str(photo),
                    remedy=f"Paint {IGNORED_PNG} over a photograph of the line; all frames need its aspect ratio",
                )
        uninspected_pixels(height_px, width_px, self.geometry)


def geometry_from_folder(root: Path, input_px: int) -> FolderGeometry:
    """Read both files, each of which is optional; `channels` is left at grey.

    Raises:
        ProcunitError: a file is not usable; the message names file, key and value.
    """
    geometry = Geometry(input_height_px=input_px, input_width_px=input_px)
    path = root / GEOMETRY_YAML
    if path.exists():
        geometry = geometry_from_yaml(path, geometry)
    path = root / IGNORED_PNG
    if not path.exists():
        return FolderGeometry(geometry, None)
    painted = painted_pixels(path)
    try:
        ignored = (*geometry.ignored, *polygons_from_pixels(painted))
        if len(ignored) > MAX_POLYGONS:
            raise _too_many()
    except ProcunitError as error:
        raise ProcunitError(error.what, where=str(path), remedy=error.remedy) from error
    height_px, width_px = painted.shape
    return FolderGeometry(geometry.model_copy(update={"ignored": ignored}), (height_px, width_px))


def geometry_from_yaml(path: Path, base: Geometry) -> Geometry:
    """`base` with the optional keys `regions`, `ignored` and `mm_per_px` of a file.

    Raises:
        ProcunitError: the file cannot be read or is not YAML, or a key or value is not usable.
    """
    keys, file = folder_yaml_from_file(path, _REMEDIES)
    for name in keys:
        if name not in _REMEDIES:
            raise YamlFileError(file.unknown_key((name,), _REMEDIES))
    try:
        return Geometry.model_validate(base.model_dump() | keys)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = first["loc"]
        if first["type"] == "extra_forbidden":
            raise YamlFileError(file.unknown_key(key, Region.model_fields)) from error
        raise YamlFileError(file.problem(key, words_from_details(first), _REMEDIES[str(key[0])])) from error


def painted_pixels(path: Path) -> NDArray[np.bool_]:
    """Where an image file is white (over 127) and not transparent: [H, W].

    Raises:
        ProcunitError: the file is not a readable image, or not black and white (perhaps a photograph).
    """
    pixels = read_image(path)
    if pixels.dtype == np.uint16:
        pixels = np.asarray(cv2.convertScaleAbs(pixels, alpha=1 / 257), np.uint8)
    grey = pixels if pixels.ndim == 2 else cv2.cvtColor(pixels[:, :, :3], cv2.COLOR_BGR2GRAY)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        grey = cv2.multiply(grey, pixels[:, :, 3], scale=1 / 255)
    grey_u8 = np.asarray(grey, np.uint8)
    share = float(((grey_u8 > _BLACK_U8) & (grey_u8 < _WHITE_U8)).mean())
    if share > _MAX_GREY_SHARE:
        raise ProcunitError(
            f"{share:.0%} of the pixels are neither black nor white",
            where=str(path),
            remedy="Paint areas that are not inspected white and all others black, with a hard brush",
        )
    return grey_u8 > _PAINTED_U8


def polygons_from_pixels(painted: NDArray[np.bool_]) -> tuple[Polygon, ...]:
    """The outlines of painted areas [H, W], exact to a pixel or a thousandth of the longer side.

    An area with a hole is cut into pieces without holes, so that the hole stays inspected. Painted specks and lines no
    wider than that tolerance are dropped, so they stay inspected, too.

    Raises:
        ProcunitError: the areas need more or longer outlines than a geometry may have.
    """
    height_px, width_px = painted.shape
    tolerance_px = max(1.0, _TOLERANCE * max(height_px, width_px))
    polygons: list[Polygon] = []
    for outline in _outlines_without_holes(painted.astype(np.uint8), margin_px=int(np.ceil(tolerance_px))):
        corners = cv2.approxPolyDP(outline, tolerance_px, closed=True)[:, 0]
        if len(corners) > MAX_POLYGON_POINTS:
            raise ProcunitError(
                f"the outline of an area has {len(corners)} points; at most {MAX_POLYGON_POINTS} are allowed",
                remedy="Paint the area with simpler edges",
            )
        if len(corners) >= 3:
            polygons.append(tuple((x / (width_px - 1), y / (height_px - 1)) for x, y in corners.tolist()))
    return tuple(polygons)


def _outlines_without_holes(painted_u8: NDArray[np.uint8], margin_px: int) -> list[NDArray[np.int32]]:
    """Outlines [n, 1, 2] in pixels; two pieces of one area overlap by `margin_px` on both sides of the cut."""
    outlines: list[NDArray[np.int32]] = []
    pieces = [(painted_u8, 0)]
    while pieces:
        piece_u8, left_px = pieces.pop()
        contours, hierarchy = cv2.findContours(piece_u8, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        for index, contour in enumerate(contours):
            _, _, hole, outer = hierarchy[0][index]
            if outer < 0 and hole < 0:
                outlines.append(np.asarray(contour, np.int32) + np.array((left_px, 0), np.int32))
            elif outer < 0:
                alone_u8 = np.zeros_like(piece_u8)
                cv2.drawContours(alone_u8, contours, index, 1.0, cv2.FILLED, hierarchy=hierarchy, maxLevel=1)
                pieces += _halves(alone_u8, left_px, contours[hole], margin_px)
            if len(outlines) + len(pieces) > MAX_POLYGONS:
                raise _too_many()
    return outlines


def _halves(
    area_u8: NDArray[np.uint8], left_px: int, hole: NDArray[np.int32], margin_px: int
) -> list[tuple[NDArray[np.uint8], int]]:
    """An area cut vertically through a hole; the hole's contour lies on the painted pixels around it."""
    x_px, y_px, width_px, height_px = cv2.boundingRect(hole)
    middle_px = x_px + width_px // 2
    from_px, to_px = middle_px - margin_px, middle_px + margin_px
    if from_px <= x_px or to_px >= x_px + width_px - 1:  # widen the hole, or one of the halves would still contain it
        area_u8[y_px + 1 : y_px + height_px - 1, max(from_px, 0) : to_px + 1] = 0
    return [(area_u8[:, : to_px + 1], left_px), (area_u8[:, max(from_px, 0) :], left_px + max(from_px, 0))]


def _too_many() -> ProcunitError:
    return ProcunitError(
        f"more than {MAX_POLYGONS} ignored areas",
        remedy=f"Join areas, fill small holes, or remove some from {GEOMETRY_YAML} and {IGNORED_PNG}",
    )
