"""Reading an image file as pixels, with limits on file size and number of pixels.

Import this module before anything decodes an image with OpenCV: it sets OpenCV's limit on pixels (2^27), which OpenCV
reads once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 27))  # OpenCV reads it at its first decoding

import cv2
import numpy as np

from edge.errors import ProcunitError
from edge.messages import PixelArray
from edge.preprocess import MIN_SIDE_PX

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MAX_IMAGE_BYTES = 256 << 20


def read_image(path: Path) -> PixelArray:
    """Decode an image file as it was stored: grey, BGR or BGRA, 8 or 16 bits per channel.

    Raises:
        ProcunitError: it cannot be read, is larger than `MAX_IMAGE_BYTES`, is no image, or has a side under 32 px.
    """
    try:
        if path.stat().st_size > MAX_IMAGE_BYTES:
            raise ProcunitError(f"larger than {MAX_IMAGE_BYTES >> 20} MB", where=str(path))
        data = path.read_bytes()
    except OSError as error:
        raise ProcunitError(f"cannot be read: {error.strerror}", where=str(path)) from error
    return image_from_bytes(data, str(path))


def image_from_bytes(content: bytes, where: str) -> PixelArray:
    """Decode the content of an image file, as `read_image` does.

    Raises:
        ProcunitError: it is larger than `MAX_IMAGE_BYTES`, is no image, or has a side under 32 px; the text names
            `where`.
    """
    if len(content) > MAX_IMAGE_BYTES:
        raise ProcunitError(f"larger than {MAX_IMAGE_BYTES >> 20} MB", where=where)
    data = np.frombuffer(content, np.uint8)
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error:
        pixels = None
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise ProcunitError("not a readable image", where=where, remedy="Replace the file or remove it from the folder")
    if min(pixels.shape[:2]) < MIN_SIDE_PX:
        raise ProcunitError(
            f"{pixels.shape[1]} x {pixels.shape[0]} px; the smallest usable side is {MIN_SIDE_PX} px",
            where=where,
            remedy="Replace the file or remove it from the folder",
        )
    return cast(PixelArray, pixels)
