"""The charts: their points are the values, and their text is text."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from training.report.charts import HEIGHT, TEXT_SIZE, WIDTH, BandPoint, Mark, curve_svg, roc_svg

HOSTILE = '</title></svg><script>alert("1")</script>&'


def _curve_points(svg: str) -> list[tuple[float, float]]:
    """The points of the curve, in the view box."""
    (line,) = [e for e in ET.fromstring(svg).iter("polyline") if e.get("class") == "curve"]  # noqa: S314  (our own)
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in str(line.get("points")).split())]


def _in_units(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points of a ROC curve from the view box, by its own corners (0, 0) and (1, 1)."""
    (x_low, y_low), (x_high, y_high) = points[0], points[-1]
    return [((x - x_low) / (x_high - x_low), (y - y_low) / (y_high - y_low)) for x, y in points]


@given(
    positives=st.lists(st.integers(0, 12), min_size=1, max_size=12),
    negatives=st.lists(st.integers(0, 12), min_size=1, max_size=12),
)
def test_a_roc_curve_goes_through_all_points_of_scikit_learn_and_no_others(
    positives: list[int], negatives: list[int]
) -> None:
    target, scores = [1] * len(positives) + [0] * len(negatives), positives + negatives
    flagged, caught, _ = roc_curve(target, scores, drop_intermediate=False)
    drawn = _in_units(_curve_points(roc_svg(flagged.tolist(), caught.tolist(), "ROC")))
    every = list(zip(flagged, caught, strict=True))
    for point in drawn:
        assert min(np.hypot(*np.subtract(point, known)) for known in every) < 1e-3
    for point in every:
        assert min(_distance(point, *ends) for ends in pairwise(drawn)) < 1e-3


def _distance(point: tuple[float, float], start: tuple[float, float], end: tuple[float, float]) -> float:
    """From a point to the straight line between two others."""
    along, to_point = np.subtract(end, start), np.subtract(point, start)
    share = np.clip(along @ to_point / max(along @ along, 1e-12), 0, 1)
    return float(np.hypot(*(to_point - share * along)))


def test_marks_lie_on_the_curve_and_are_named() -> None:
    svg = roc_svg([0, 0, 1], [0, 0.5, 1], "ROC", [Mark(0, 0.5, "at most 5%"), Mark(0, 0.5, "at most 1%")])
    circles = [(float(str(e.get("cx"))), float(str(e.get("cy")))) for e in ET.fromstring(svg).iter("circle")]  # noqa: S314
    corner = _curve_points(svg)[1]
    assert circles[0] == circles[2] == corner
    assert "at most 5%" in svg
    assert "at most 1%" in svg


def test_a_learning_curve_shows_its_points_and_interval() -> None:
    points = [BandPoint(10, 0.8, 0.62, 0.9), BandPoint(20, 0.9, 0.8, 0.95), BandPoint(40, 0.95, 0.9, 1.0)]
    svg = curve_svg(points, "Learning", "Photographs", "AUC")
    drawn = _curve_points(svg)
    assert len(drawn) == 3
    xs, ys = [x for x, _ in drawn], [y for _, y in drawn]
    assert xs[2] - xs[1] == pytest.approx(2 * (xs[1] - xs[0]), abs=0.02)
    assert ys[0] - ys[1] == pytest.approx(2 * (ys[1] - ys[2]), abs=0.02)
    assert ">0.6<" in svg, "the axis begins below the interval"
    assert ">40<" in svg


@pytest.mark.parametrize(
    "points", [[], [BandPoint(5, float("nan"), 0, 1)], [BandPoint(3, 1, 1, 1)], [BandPoint(0, 0.0, 0.0, 0.0)]]
)
def test_few_or_unknown_points_make_a_chart_all_the_same(points: list[BandPoint]) -> None:
    svg = curve_svg(points, "Learning", "Photographs", "AUC")
    ET.fromstring(svg)  # noqa: S314
    assert "nan" not in svg
    assert "inf" not in svg


@pytest.mark.parametrize(
    "svg",
    [
        roc_svg([0, 1], [0, 1], HOSTILE, [Mark(0.5, 0.5, HOSTILE)]),
        curve_svg([BandPoint(1, 0.5, 0.4, 0.6)], HOSTILE, HOSTILE, HOSTILE),
    ],
)
def test_charts_are_read_out_and_hold_hostile_text_as_text(svg: str) -> None:
    root = ET.fromstring(svg)  # noqa: S314
    assert root.get("role") == "img"
    assert root[0].tag == "title"
    assert root[0].text == HOSTILE
    assert "<script" not in svg
    assert {e.tag for e in root.iter()} <= {"svg", "title", "line", "polyline", "polygon", "circle", "text"}


def test_text_can_be_read_on_a_phone_and_nothing_leaves_the_view_box() -> None:
    svg = roc_svg([0, 0, 1], [0, 1, 1], "ROC", [Mark(0, 1, "at most 5%")])
    assert 320 / WIDTH * TEXT_SIZE >= 12
    assert f'viewBox="0 0 {WIDTH} {HEIGHT}"' in svg
    assert re.findall(r'font-size="(\d+)"', svg) == [str(TEXT_SIZE)]
    for element in ET.fromstring(svg).iter():  # noqa: S314
        for name, limit in (("x", WIDTH), ("x1", WIDTH), ("cx", WIDTH), ("y", HEIGHT), ("y1", HEIGHT), ("cy", HEIGHT)):
            assert 0 <= float(element.get(name, 0)) <= limit
