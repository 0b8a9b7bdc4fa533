"""The contact sheet: what the network will see of each label after augmentation, for a person to check.

A row is an original and augmented views of it, as tiles of the network's input, drawn just as in training.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.bundle.manifest import GOOD
from edge.geometry import Geometry
from edge.image_file import read_image
from edge.messages import PixelArray
from edge.preprocess import mask_tiles, tensor_from_pixels
from training.augment import augmentation_in_geometry, augmented
from training.data.dataset import Photo, read_mask
from training.data.dataset_yaml import DatasetFile
from training.report.pictures import draw_outline

CELL_PX = 160
"""The longer side of a tile on the sheet."""
VIEWS, PARTS = 7, 2
"""Views beside each original, and parts per label."""

_GAP_PX, _ORIGINAL_GAP_PX, _MARGIN_PX, _LEAST_WIDTH_PX = 6, 18, 16, 960
_PAPER_U8 = 255
_TEXT_LINE_PX, _TITLE_LINE_PX = 20, 28
_TEXT_SCALE, _TITLE_SCALE = 0.45, 0.6
_INK_BGR, _FAINT_BGR = (40.0, 40.0, 40.0), (100.0, 100.0, 100.0)


def contact_sheet(
    photos: Sequence[Photo], dataset_file: DatasetFile, geometry: Geometry, seed: int
) -> NDArray[np.uint8]:
    """The sheet of all labels, good parts first: uint8 [H, W, 3] BGR, 2 parts per label drawn by `seed`.

    With several regions, each row shows the tile with most of the defect, or without a mask the next tile in turn.

    Raises:
        ProcunitError: a photograph or a mask is not usable.
    """
    rng = np.random.default_rng(seed)
    cell_width_px = _cell_size_px(geometry)[1]
    width_px = max(_LEAST_WIDTH_PX, _ORIGINAL_GAP_PX - _GAP_PX + (VIEWS + 1) * (cell_width_px + _GAP_PX))
    legend = (
        f"What the network will see: on the left the photograph as it is, then {VIEWS} augmented views, as tiles of "
        f"{geometry.input_width_px} x {geometry.input_height_px} px; masks are outlined. Seed {seed}."
    )
    strips = _text(legend, width_px, title=False)
    for label in sorted({photo.label for photo in photos}, key=lambda name: (name != GOOD, name)):
        declared = dataset_file.augmentation_of(label)
        allowed = augmentation_in_geometry(declared, geometry)
        strips += [_blank(_MARGIN_PX, width_px), *_text(f"{label}: {allowed.in_words()}", width_px, title=True)]
        if allowed != declared:
            limited = f"Limited because regions or ignored areas do not move; declared: {declared.in_words()}"
            strips += _text(limited, width_px, title=False)
        for number, photo in enumerate(_photos_to_show([photo for photo in photos if photo.label == label], rng)):
            pixels = read_image(photo.path)
            mask_u8 = None if photo.mask is None else read_mask(photo.mask, *pixels.shape[:2])
            tile = _tile_to_show(mask_u8, number, geometry)
            where = f", tile {tile + 1} of {len(geometry.regions)}" if len(geometry.regions) > 1 else ""
            views = [(pixels, mask_u8), *(augmented(pixels, mask_u8, allowed, rng) for _ in range(VIEWS))]
            strips += _text(f"{photo.file}{where}", width_px, title=False)
            strips += [_row([_cell(*view, tile, geometry) for view in views], width_px), _blank(_GAP_PX, width_px)]
    margins_px = (_MARGIN_PX,) * 4
    sheet_bgr_u8 = cv2.copyMakeBorder(np.vstack(strips), *margins_px, cv2.BORDER_CONSTANT, value=(_PAPER_U8,) * 3)
    return np.asarray(sheet_bgr_u8, np.uint8)


def png_from_sheet(sheet_bgr_u8: NDArray[np.uint8]) -> bytes:
    """A sheet as the bytes of a PNG file."""
    return cv2.imencode(".png", sheet_bgr_u8, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()


def _photos_to_show(photos: Sequence[Photo], rng: np.random.Generator) -> list[Photo]:
    """One photograph each of randomly drawn parts, all parts with equal probability."""
    by_part: dict[str, list[Photo]] = {}
    for photo in photos:
        by_part.setdefault(photo.part_id, []).append(photo)
    parts = rng.permutation(sorted(by_part))[:PARTS].tolist()
    return [by_part[part][int(rng.integers(len(by_part[part])))] for part in parts]


def _tile_to_show(mask_u8: NDArray[np.uint8] | None, number: int, geometry: Geometry) -> int:
    defect = mask_tiles(mask_u8, geometry).sum(axis=(1, 2)) if mask_u8 is not None else np.zeros(1)
    return int(np.argmax(defect)) if defect.any() else number % len(geometry.regions)


def _cell_size_px(geometry: Geometry) -> tuple[int, int]:
    """Height and width of a tile on the sheet."""
    scale = CELL_PX / max(geometry.input_height_px, geometry.input_width_px)
    return max(1, round(geometry.input_height_px * scale)), max(1, round(geometry.input_width_px * scale))


def _cell(pixels: PixelArray, mask_u8: NDArray[np.uint8] | None, tile: int, geometry: Geometry) -> NDArray[np.uint8]:
    """One tile of the network's input in BGR, at its size on the sheet."""
    tile_u8 = tensor_from_pixels(pixels, geometry)[tile]
    tile_bgr_u8 = tile_u8 if geometry.channels == 3 else cv2.cvtColor(tile_u8, cv2.COLOR_GRAY2BGR)
    height_px, width_px = _cell_size_px(geometry)
    interpolation = cv2.INTER_AREA if height_px <= tile_u8.shape[0] else cv2.INTER_NEAREST
    cell_bgr_u8 = np.asarray(cv2.resize(tile_bgr_u8, (width_px, height_px), interpolation=interpolation), np.uint8)
    if mask_u8 is not None:
        defect = cv2.resize(mask_tiles(mask_u8, geometry)[tile], (width_px, height_px), interpolation=interpolation)
        draw_outline(cell_bgr_u8, defect > 0)
    return cell_bgr_u8


def _row(cells: Sequence[NDArray[np.uint8]], width_px: int) -> NDArray[np.uint8]:
    """The original, separated by a wider gap, and its views."""
    height_px, cell_width_px = cells[0].shape[:2]
    row = _blank(height_px, width_px)
    left_px = 0
    for cell in cells:
        row[:, left_px : left_px + cell_width_px] = cell
        left_px += cell_width_px + (_GAP_PX if left_px else _ORIGINAL_GAP_PX)
    return row


def _text(text: str, width_px: int, *, title: bool) -> list[NDArray[np.uint8]]:
    """Lines of text on the sheet's background, wrapped between words."""
    font = cv2.FONT_HERSHEY_DUPLEX if title else cv2.FONT_HERSHEY_SIMPLEX
    scale, line_px, ink_bgr = (
        (_TITLE_SCALE, _TITLE_LINE_PX, _INK_BGR) if title else (_TEXT_SCALE, _TEXT_LINE_PX, _FAINT_BGR)
    )
    lines = [""]
    for word in text.encode("utf-8", "replace").decode("utf-8").split():  # a file name may be invalid UTF-8
        longer = f"{lines[-1]} {word}".strip()
        if cv2.getTextSize(longer, font, scale, 1)[0][0] <= width_px or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    strips = [_blank(line_px, width_px) for _ in lines]
    for strip, line in zip(strips, lines, strict=True):
        cv2.putText(strip, line, (0, line_px - 8), font, scale, ink_bgr, 1, cv2.LINE_AA)
    return strips


def _blank(height_px: int, width_px: int) -> NDArray[np.uint8]:
    return np.full((height_px, width_px, 3), _PAPER_U8, np.uint8)
