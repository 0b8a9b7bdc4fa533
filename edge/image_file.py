"""Reading an image file as pixels, with limits on file size and number of pixels, before anything is decoded.

Import this module before anything decodes an image with OpenCV: it also sets OpenCV's own limit on pixels, which OpenCV
reads once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

from edge.image_header import MAX_PIXELS, ImageSizeError, size_from_header

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))  # OpenCV reads it at its first decoding

import cv2
import numpy as np

from edge.errors import ProcunitError
from edge.messages import PixelArray
from edge.preprocess import MIN_SIDE_PX
from edge.system.files import bytes_from_file

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
MAX_IMAGE_BYTES = 256 << 20
_REPLACE = "Replace the file or remove it from the folder"


def read_image(path: Path) -> PixelArray:
    """Decode an image file as it was stored: grey, BGR or BGRA, 8 or 16 bits per channel.

    Raises:
        ProcunitError: it cannot be read, is larger than `MAX_IMAGE_BYTES` or has over `MAX_PIXELS`, is no image, or has
            a side under 32 px.
    """
    return image_from_bytes(bytes_from_file(path, MAX_IMAGE_BYTES), str(path))


def image_from_bytes(content: bytes, where: str) -> PixelArray:
    """Decode the content of an image file, as `read_image` does.

    Raises:
        ProcunitError: it is larger than `MAX_IMAGE_BYTES`, is no image, has over `MAX_PIXELS`, or has a side under 32
            px; the text names `where`.
    """
    if len(content) > MAX_IMAGE_BYTES:
        raise ProcunitError(f"larger than {MAX_IMAGE_BYTES >> 20} MB", where=where)
    pixels = pixels_from_bytes(content, where)
    if min(pixels.shape[:2]) < MIN_SIDE_PX:
        raise ProcunitError(
            f"{pixels.shape[1]} x {pixels.shape[0]} px; the smallest usable side is {MIN_SIDE_PX} px",
            where=where,
            remedy=_REPLACE,
        )
    return pixels


def pixels_from_bytes(data: bytes, where: str, flags: int = cv2.IMREAD_UNCHANGED) -> PixelArray:
    """Decode the content of an image file, after a look at the size that its header claims; `flags` are OpenCV's.

    Raises:
        ProcunitError: it is no image, or has over `MAX_PIXELS`; the text names `where`.
    """
    try:
        size_from_header(data)
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except ImageSizeError as error:
        raise ProcunitError(f"not a readable image: {error}", where=where, remedy=_REPLACE) from error
    except cv2.error:
        pixels = None
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        raise ProcunitError("not a readable image", where=where, remedy=_REPLACE)
    return cast(PixelArray, pixels)
