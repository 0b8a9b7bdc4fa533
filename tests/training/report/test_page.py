"""Pages and their pictures: text stays text, nothing is loaded, and an outline hides no defect."""

from __future__ import annotations

from base64 import b64decode
from html import escape

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from training.report.page import note, page_html, paragraph, table
from training.report.pictures import (
    PICTURE_PX,
    Picture,
    draw_outline,
    legend_html,
    page_jpeg,
    picture_from_map,
    pictures_html,
)

HOSTILE = '"><img src=x onerror=alert(1)><script>'


def _decoded(data: bytes) -> NDArray[np.int64]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return np.asarray(pixels, np.int64)


@pytest.mark.parametrize(
    "html",
    [
        page_html(HOSTILE, []),
        paragraph(HOSTILE),
        note(HOSTILE),
        table(HOSTILE, [HOSTILE], [[HOSTILE]]),
        pictures_html([Picture(b"", HOSTILE)]),
        legend_html(HOSTILE, HOSTILE),
    ],
)
def test_text_is_escaped(html: str) -> None:
    assert escape(HOSTILE) in html
    assert "<script" not in html
    assert "<img src=x" not in html


def test_a_page_may_load_nothing_and_takes_more_into_its_head() -> None:
    page = page_html("title", ["<p>content</p>"], "<style>p { margin: 0; }</style>")
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in page
    assert page.index("p { margin: 0; }") < page.index("</head>") < page.index("content</p>")


def test_the_legend_goes_from_dark_blue_to_yellow() -> None:
    bar = _decoded(b64decode(legend_html().partition("base64,")[2].partition('"')[0]))
    assert bar[0, 0, 0] > bar[0, 0, 2], "dark blue"
    assert bar[0, -1, 2] > bar[0, -1, 0], "yellow"


def test_an_outline_is_clear_of_the_defect() -> None:
    pixels_bgr_u8 = np.full((60, 60, 3), 90, np.uint8)
    defect = np.zeros((60, 60), np.bool_)
    defect[20:30, 25:40] = True
    draw_outline(pixels_bgr_u8, defect)
    drawn = (pixels_bgr_u8 != 90).any(axis=2)
    assert drawn.any()
    assert not drawn[19:31, 24:41].any()


@pytest.mark.parametrize("shape", [(200, 300), (900, 1200, 3)])
def test_a_mask_is_outlined_in_the_photograph_alone(shape: tuple[int, ...]) -> None:
    frame_u8, relevance_u8 = np.full(shape, 90, np.uint8), np.zeros((16, 24), np.uint8)
    mask_u8 = np.zeros(shape[:2], np.uint8)
    mask_u8[shape[0] // 3 : shape[0] // 2, shape[1] // 3 : shape[1] // 2] = 255
    before = frame_u8.copy()
    plain, outlined = (
        _decoded(picture_from_map(frame_u8, relevance_u8, "", 1 << 20, mask).jpeg) for mask in (None, mask_u8)
    )
    width_px = min(shape[1], PICTURE_PX)
    changed = np.abs(plain - outlined).max(axis=2) > 60
    assert changed[:, :width_px].any()
    assert not changed[:, width_px + 8 :].any()
    np.testing.assert_array_equal(frame_u8, before)


def test_a_jpeg_fits_unless_hardly_anything_would_be_left() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 600, 3), np.uint8)
    assert len(page_jpeg(noise, 20_000)) <= 20_000
    assert min(_decoded(page_jpeg(noise, 1)).shape[:2]) >= 32
