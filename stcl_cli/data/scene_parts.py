"""What the drawn scenes are made of: shapes, coats and places.

Shapes are given in the unit square, y down, and drawn upon a square tile of T pixels a side; places upon a square
canvas of S pixels a side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np


# ---- shapes: silhouettes of one object on a square tile -------------------------------------------------------------
def _polygon(tile_TT: np.ndarray, points: list[tuple[float, float]]) -> None:
    cv2.fillPoly(tile_TT, [np.round(np.array(points) * len(tile_TT)).astype(np.int32)], 255)


def _ellipse(tile_TT: np.ndarray, x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> None:
    side = len(tile_TT)
    centre, axes = (round(x * side), round(y * side)), (round(rx * side), round(ry * side))
    cv2.ellipse(tile_TT, centre, axes, angle, 0, 360, 255, -1)


def _cat_shape(tile_TT: np.ndarray) -> None:
    _ellipse(tile_TT, 0.45, 0.70, 0.25, 0.27)  # body, sitting
    _ellipse(tile_TT, 0.45, 0.33, 0.23, 0.20)  # head
    _polygon(tile_TT, [(0.23, 0.32), (0.24, 0.04), (0.43, 0.17)])  # ears
    _polygon(tile_TT, [(0.67, 0.32), (0.66, 0.04), (0.47, 0.17)])
    tail = np.array([(0.60, 0.90), (0.80, 0.86), (0.88, 0.68), (0.80, 0.50)]) * len(tile_TT)
    cv2.polylines(tile_TT, [tail.astype(np.int32)], False, 255, round(0.11 * len(tile_TT)))


def _fish_shape(tile_TT: np.ndarray) -> None:
    _ellipse(tile_TT, 0.42, 0.50, 0.37, 0.26)
    _polygon(tile_TT, [(0.70, 0.50), (0.97, 0.22), (0.90, 0.50), (0.97, 0.78)])  # tail
    _polygon(tile_TT, [(0.28, 0.30), (0.50, 0.10), (0.62, 0.32)])  # fin on the back


def _ladybird_shape(tile_TT: np.ndarray) -> None:
    _ellipse(tile_TT, 0.52, 0.52, 0.40, 0.36)
    _ellipse(tile_TT, 0.14, 0.56, 0.12, 0.14)  # head


def _snail_shape(tile_TT: np.ndarray) -> None:
    _ellipse(tile_TT, 0.55, 0.46, 0.36, 0.36)  # shell
    _polygon(tile_TT, [(0.22, 0.44), (0.30, 0.66), (0.97, 0.86), (0.10, 0.86), (0.04, 0.50)])  # neck and foot
    _ellipse(tile_TT, 0.13, 0.51, 0.10, 0.10)  # head


def _castle_shape(tile_TT: np.ndarray) -> None:
    _polygon(tile_TT, [(0.12, 0.42), (0.88, 0.42), (0.88, 0.94), (0.12, 0.94)])
    for left, top in ((0.05, 0.22), (0.69, 0.22), (0.37, 0.08)):  # three towers with battlements
        _polygon(tile_TT, [(left, top), (left + 0.26, top), (left + 0.26, 0.94), (left, 0.94)])
        for gap in (0.06, 0.16):
            notch = np.array([(left + gap, top), (left + gap + 0.05, top + 0.06)]) * len(tile_TT)
            cv2.rectangle(tile_TT, *notch.round().astype(int).tolist(), 0, -1)


def _balloon_shape(tile_TT: np.ndarray) -> None:
    _ellipse(tile_TT, 0.50, 0.38, 0.36, 0.36)
    _polygon(tile_TT, [(0.17, 0.52), (0.83, 0.52), (0.60, 0.86), (0.40, 0.86)])
    _polygon(tile_TT, [(0.40, 0.86), (0.60, 0.86), (0.58, 0.98), (0.42, 0.98)])  # basket


# ---- coats: where the second colour goes, from coordinates counted in pattern periods, origin mid-tile ---------------
def _stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * (u + 0.15 * np.sin(2.0 * v))) > 0.1


def _scales(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    row = np.floor(2 * v)
    x, y = (u + 0.5 * (row % 2)) % 1 - 0.5, v - 0.5 * row
    return np.abs(np.hypot(x, y) - 0.42) < 0.11


def _spots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    row = np.floor(v)
    return np.hypot((u + 0.5 * (row % 2)) % 1 - 0.5, v - row - 0.5) < 0.31


def _spiral(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * np.hypot(u, v) + np.arctan2(v, u)) > 0.1


def _bricks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    row = np.floor(1.6 * v)
    return ((1.6 * v - row) < 0.24) | ((0.8 * u + 0.5 * (row % 2)) % 1 < 0.14)


def _zigzag(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (v + 0.9 * np.abs(0.7 * u % 1 - 0.5)) % 1 < 0.45


# ---- places: backdrops painted upon a canvas that is all sky, colours[0] ---------------------------------------------
def ridge(canvas_SS3: np.ndarray, rng: np.random.Generator, height: float, swing: float, colour: np.ndarray) -> None:
    """A hill line `height` of the way down, filled to the bottom."""
    side = len(canvas_SS3)
    x = np.linspace(0, 1, 40)
    y = height + swing * np.sin(2 * np.pi * (rng.uniform(0.6, 1.6) * x + rng.random()))
    points = [*zip(x, y, strict=True), (1, 1.01), (0, 1.01)]
    cv2.fillPoly(canvas_SS3, [np.round(np.array(points) * side).astype(np.int32)], colour.tolist())


def blob(
    canvas_SS3: np.ndarray,
    rng: np.random.Generator,
    x: float,
    y: float,
    r: float,
    colour: np.ndarray,
    mask_SS: np.ndarray | None = None,
) -> None:
    """A cloud, bush or tree crown, circles side by side; what it hides is taken out of the mask."""
    side = len(canvas_SS3)
    for shift, share in ((-0.9, 0.65), (0.0, 1.0), (0.9, 0.6)):
        centre = (round((x + shift * r) * side), round((y + (1 - share) * r * rng.uniform(0.6, 1.2)) * side))
        cv2.circle(canvas_SS3, centre, round(share * r * side), colour.tolist(), -1)
        if mask_SS is not None:
            cv2.circle(mask_SS, centre, round(share * r * side), 0, -1)


def _meadow(canvas_SS3: np.ndarray, rng: np.random.Generator, colours: np.ndarray) -> None:
    side = len(canvas_SS3)
    ridge(canvas_SS3, rng, 0.42, 0.06, colours[1])
    ridge(canvas_SS3, rng, 0.62, 0.05, colours[2])
    for x, y in rng.uniform((0, 0.62), (1, 1.05), (70, 2)):
        tip = (x + rng.uniform(-0.02, 0.02), y - rng.uniform(0.04, 0.09))
        blade = (np.array([(x - 0.008, y), (x + 0.008, y), tip]) * side).astype(np.int32)
        cv2.fillPoly(canvas_SS3, [blade], colours[rng.choice((1, 3))].tolist())


def _sea(canvas_SS3: np.ndarray, rng: np.random.Generator, colours: np.ndarray) -> None:
    side = len(canvas_SS3)
    ridge(canvas_SS3, rng, 0.30, 0.01, colours[1])
    ridge(canvas_SS3, rng, 0.66, 0.03, colours[2])
    for x, y in rng.uniform((-0.1, 0.34), (1, 1), (26, 2)):
        t = np.linspace(0, 1, 16)
        crest = np.stack([x + 0.16 * t, y + 0.012 * np.sin(4 * np.pi * t)], axis=1) * side
        cv2.polylines(canvas_SS3, [crest.astype(np.int32)], False, colours[3].tolist(), max(1, side // 130))


def _sky(canvas_SS3: np.ndarray, rng: np.random.Generator, colours: np.ndarray) -> None:
    ridge(canvas_SS3, rng, rng.uniform(0.82, 0.9), 0.04, colours[2])
    for x, y, r in rng.uniform((0, 0.05, 0.05), (1, 0.8, 0.11), (7, 3)):
        blob(canvas_SS3, rng, x, y, r, colours[rng.choice((1, 3))])


def _forest(canvas_SS3: np.ndarray, rng: np.random.Generator, colours: np.ndarray) -> None:
    side = len(canvas_SS3)
    ridge(canvas_SS3, rng, 0.72, 0.03, colours[1])
    for x, y in sorted(rng.uniform((0, 0.7), (1, 0.95), (9, 2)).tolist(), key=lambda tree: tree[1]):
        foot, top = (round(x * side), round(y * side)), (round(x * side), round((y - 0.45) * side))
        cv2.line(canvas_SS3, foot, top, colours[3].tolist(), round(rng.uniform(0.02, 0.04) * side))
        blob(canvas_SS3, rng, x, y - 0.5, rng.uniform(0.07, 0.12), colours[rng.choice((2, 4))])


def _town(canvas_SS3: np.ndarray, rng: np.random.Generator, colours: np.ndarray) -> None:
    side = len(canvas_SS3)
    for base in (0.62, 0.84):
        for left in np.arange(-0.1, 1.0, 0.2) + rng.uniform(-0.05, 0.05):
            width, top = 0.17, base - rng.uniform(0.22, 0.45)
            wall, roof, pane = (colour.tolist() for colour in colours[rng.permutation(np.arange(1, 5))[:3]])
            corners = (np.array([(left, top), (left + width, base)]) * side).astype(int).tolist()
            cv2.rectangle(canvas_SS3, *corners, wall, -1)
            gable = np.array([(left - 0.02, top), (left + width / 2, top - 0.1), (left + width + 0.02, top)])
            cv2.fillPoly(canvas_SS3, [(gable * side).astype(np.int32)], roof)
            for dx, dy in ((0.03, 0.04), (0.10, 0.04), (0.03, 0.14), (0.10, 0.14)):
                window = np.array([(left + dx, top + dy), (left + dx + 0.04, top + dy + 0.05)]) * side
                cv2.rectangle(canvas_SS3, *window.astype(int).tolist(), pane, -1)
    ridge(canvas_SS3, rng, 0.84, 0.01, colours[1])


def _desert(canvas_SS3: np.ndarray, rng: np.random.Generator, colours: np.ndarray) -> None:
    for height, colour in zip((0.38, 0.52, 0.66, 0.82), colours[[1, 2, 3, 1]], strict=True):
        ridge(canvas_SS3, rng, height + rng.uniform(-0.03, 0.03), 0.07, colour)


class SceneClass(NamedTuple):
    shape: Callable[[np.ndarray], None]
    coat: Callable[[np.ndarray, np.ndarray], np.ndarray]
    periods: float  # of the coat, a tile
    eyes: tuple[tuple[float, float], ...]
    home: Callable[[np.ndarray, np.random.Generator, np.ndarray], None]


CLASSES = {
    "balloon": SceneClass(_balloon_shape, _zigzag, 6.0, (), _sky),
    "castle": SceneClass(_castle_shape, _bricks, 6.0, (), _desert),
    "cat": SceneClass(_cat_shape, _stripes, 6.0, ((0.37, 0.33), (0.54, 0.33)), _town),
    "fish": SceneClass(_fish_shape, _scales, 6.0, ((0.18, 0.45),), _sea),
    "ladybird": SceneClass(_ladybird_shape, _spots, 5.0, ((0.12, 0.52),), _meadow),
    "snail": SceneClass(_snail_shape, _spiral, 6.0, ((0.12, 0.53),), _forest),
}
