"""Line charts as inline SVG: they scale with the page, have a title for screen readers, and need no script."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

WIDTH, HEIGHT = 420, 340
"""The view box; on a phone 360 px wide, text of `TEXT_SIZE` is still 13 px high."""
TEXT_SIZE = 16
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 396, 16, 274
_INK, _FAINT, _LINE, _BAND, _MARK = "#1c2430", "#d5dae1", "#0b4f9e", "#c9dcf2", "#b34700"
_TICKS = 5
_LEGEND_X = 236
_LEAST_DISTANCE = 44
"""The smallest distance between two labels of the x axis."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A marked point on a curve, and its legend text."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class BandPoint:
    """A point of a curve with its confidence interval."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Axes:
    """Maps values to coordinates in the view box."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (_RIGHT - _LEFT)

    def y(self, value: float) -> float:
        return _BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (_BOTTOM - _TOP)

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{self.x(x):.2f},{self.y(y):.2f}" for x, y in points)


def roc_svg(flagged: Sequence[float], caught: Sequence[float], title: str, marks: Sequence[Mark] = ()) -> str:
    """A ROC curve: x is the share of good parts that are flagged, y the share of defect parts that are caught."""
    axes = _Axes(0, 1, 0, 1)
    ticks = np.linspace(0, 1, _TICKS).tolist()
    drawn = [
        *_grid(axes, ticks, ticks, _percent, "Good parts flagged", "Defect parts caught"),
        f'<polyline points="{axes.path([(0, 0), (1, 1)])}" fill="none" stroke="{_INK}" stroke-dasharray="4 5"/>',
        _curve(axes, _corners(list(zip(flagged, caught, strict=True)))),
    ]
    for number, mark in enumerate(marks):
        y = _BOTTOM - 20 - (len(marks) - 1 - number) * (TEXT_SIZE + 8)
        drawn += [
            _ring(axes.x(mark.x), axes.y(mark.y), number),
            _ring(_LEGEND_X, y, number),
            _text(_LEGEND_X + 14, y + 5, mark.text),
        ]
    return _svg(title, drawn)


def curve_svg(points: Sequence[BandPoint], title: str, x_name: str, y_name: str) -> str:
    """A curve of shares between 0 and 1 with its confidence band; the y axis starts at the tenth below the band."""
    known = [p for p in points if np.isfinite((p.x, p.y, p.low, p.high)).all()]
    lowest = min((min(p.low, p.y) for p in known), default=0.5)
    y_low = min(0.9, max(0.0, np.floor(lowest * 10) / 10))
    axes = _Axes(0, max((p.x for p in known), default=1.0) or 1.0, float(y_low), 1)
    tenths = np.arange(round(y_low * 10), 11) / 10
    y_ticks = tenths[:: max(1, -(-len(tenths) // (_TICKS + 1)))].tolist()
    band = [(p.x, p.high) for p in known] + [(p.x, p.low) for p in reversed(known)]
    drawn = [
        *_grid(axes, [0.0, *(p.x for p in known)], y_ticks, _number, x_name, y_name),
        f'<polygon points="{axes.path(band)}" fill="{_BAND}"/>',
        _curve(axes, [(p.x, p.y) for p in known]),
    ]
    for p in known:
        x = axes.x(p.x)
        drawn += [
            f'<line x1="{x:.2f}" y1="{axes.y(p.low):.2f}" x2="{x:.2f}" y2="{axes.y(p.high):.2f}" stroke="{_LINE}"/>',
            f'<circle cx="{x:.2f}" cy="{axes.y(p.y):.2f}" r="4.5" fill="{_LINE}"/>',
        ]
    return _svg(title, drawn)


def _svg(title: str, drawn: Iterable[str]) -> str:
    return (
        f'<svg class="chart" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" font-size="{TEXT_SIZE}" '
        f'font-family="system-ui, sans-serif"><title>{escape(title)}</title>{"".join(drawn)}</svg>'
    )


def _grid(
    axes: _Axes,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    in_words: Callable[[float], str],
    x_name: str,
    y_name: str,
) -> list[str]:
    """The axes with names and tick labels; x labels are dropped if they are too close, but never the last one."""
    drawn = []
    for value in y_ticks:
        y = axes.y(value)
        drawn += [
            f'<line x1="{_LEFT}" y1="{y:.2f}" x2="{_RIGHT}" y2="{y:.2f}" stroke="{_FAINT}"/>',
            _text(_LEFT - 8, y + 5, in_words(value), "end"),
        ]
    next_x = float("inf")
    for value in reversed(x_ticks):
        x = axes.x(value)
        if next_x - x >= _LEAST_DISTANCE:
            drawn += [
                f'<line x1="{x:.2f}" y1="{_TOP}" x2="{x:.2f}" y2="{_BOTTOM}" stroke="{_FAINT}"/>',
                _text(x, _BOTTOM + 22, in_words(value), "middle"),
            ]
            next_x = x
    middle_x, middle_y = (_LEFT + _RIGHT) / 2, (_TOP + _BOTTOM) / 2
    return [
        *drawn,
        f'<polyline points="{_LEFT},{_TOP} {_LEFT},{_BOTTOM} {_RIGHT},{_BOTTOM}" fill="none" stroke="{_INK}"/>',
        _text(middle_x, _BOTTOM + 50, x_name, "middle"),
        _text(0, 0, y_name, "middle", f' transform="translate(14 {middle_y:.0f}) rotate(-90)"'),
    ]


def _corners(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points without those on the straight line between their neighbours."""
    kept = list(points[:1])
    for point, (next_x, next_y) in pairwise(points[1:]):
        (x, y), (last_x, last_y) = point, kept[-1]
        if abs((x - last_x) * (next_y - y) - (y - last_y) * (next_x - x)) > 1e-12:
            kept.append(point)
    return [*kept, *points[1:][-1:]]


def _ring(x: float, y: float, number: int) -> str:
    """A mark: large and filled for the first one, else small and open, so that two at the same point are visible."""
    radius, fill = (7, _MARK) if number == 0 else (4, "#ffffff")
    return f'<circle cx="{x:.2f}" cy="{y:.2f}" r="{radius}" fill="{fill}" stroke="{_MARK}" stroke-width="2"/>'


def _curve(axes: _Axes, points: Sequence[tuple[float, float]]) -> str:
    return f'<polyline class="curve" points="{axes.path(points)}" fill="none" stroke="{_LINE}" stroke-width="2.5"/>'


def _text(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}" fill="{_INK}"{more}>{escape(text)}</text>'


def _percent(value: float) -> str:
    return f"{value:.0%}"


def _number(value: float) -> str:
    return f"{value:g}"
