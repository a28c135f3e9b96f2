"""Line charts as plain geometry: what is drawn is in the template, where colours follow the page's light or dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 280, 130  # of the whole drawing, in SVG units
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 8, 20  # room for the ticks
MOST_POINTS = 400  # a line has no more: neighbours are averaged


class Chart(NamedTuple):
    """A line with its ticks, in SVG units from the upper left.

    Attributes:
        points: the line, as an SVG polyline has it; `mark` is the point on it that has a dot.
        x_ticks, y_ticks: (position, text).
        value: text of the value at the dot.
    """

    title: str
    points: str
    mark: tuple[float, float]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    value: str


def line_chart(
    title: str, xs: Sequence[float], ys: Sequence[float], x_range: tuple[float, float], mark: int = -1
) -> Chart:
    """A chart of at least one point, with a dot at the one of number `mark`.

    `x_range` is the whole axis, so that several charts can be compared.
    """
    pieces = min(len(xs), MOST_POINTS)
    x_values = np.array([piece.mean() for piece in np.array_split(np.asarray(xs, float), pieces)])
    y_values = np.array([piece.mean() for piece in np.array_split(np.asarray(ys, float), pieces)])
    low, high = float(y_values.min()), float(y_values.max())
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # a flat line lies in the middle
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    x_low, x_high = x_range if x_range[1] > x_range[0] else (x_range[0] - 1, x_range[0] + 1)

    def place_x(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def place_y(y: float) -> float:
        return round(TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    places = [(place_x(x), place_y(y)) for x, y in zip(x_values, y_values, strict=True)]
    return Chart(
        title=title,
        points=" ".join(f"{x:g},{y:g}" for x, y in places),
        mark=places[mark if mark < 0 else mark * pieces // len(xs)],
        x_ticks=[(place_x(x), tick_text(x)) for x in nice_ticks(x_low, x_high, 4)],
        y_ticks=[(place_y(y), tick_text(y)) for y in nice_ticks(low, high, 4)],
        value=f"{ys[mark]:.3g}",
    )


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 1 multiples of 1, 2 or 5 times a power of ten within `low` < `high`."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float) -> str:
    """20000 -> '20k', 0.30000000000000004 -> '0.3', 1e-05 stays."""
    if abs(value) >= 1000:
        return f"{value / 1000:.6g}k"
    return f"{value:.6g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.3g}"
