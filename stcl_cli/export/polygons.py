"""Regions of a mask as polygons that fill back to the same pixels."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np


def polygons(region_HW: np.ndarray) -> Iterator[np.ndarray]:
    """One closed polygon for each 8-connected part of a bool map: (n, 2) int32 pixels (x, y), n >= 3.

    The polygon runs through the outermost pixels; holes are joined to it by a seam there and back within the part.
    Filled with its border, by the even-odd rule (cv2.fillPoly), it gives exactly the part.
    """
    contours, hierarchy = cv2.findContours(region_HW.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    for index, contour in enumerate(contours):
        *_, hole, parent = hierarchy[0, index]
        if parent < 0:
            holes = []
            while hole >= 0:
                holes.append(contours[hole][:, 0])
                hole = hierarchy[0, hole, 0]
            yield _corners(_with_holes(contour[:, 0], holes, region_HW))


def _with_holes(polygon_N2: np.ndarray, holes: list[np.ndarray], region_HW: np.ndarray) -> np.ndarray:
    """Each hole, from the left, is joined to the border that a walk to the left from its leftmost pixel meets.

    That border is the outer one or another hole's, further left and so joined before ("Triangulation by Ear Clipping",
    Eberly, 2002, section 3).
    """
    for hole in sorted(holes, key=lambda hole: hole[:, 0].min()):
        start = int(hole[:, 0].argmin())
        x, y = hole[start]
        outside = np.flatnonzero(~region_HW[y, :x])
        meets = (outside[-1] + 1 if len(outside) else 0, y)
        at = int(np.flatnonzero((polygon_N2 == meets).all(1))[0])
        around = np.concatenate([hole[start:], hole[: start + 1]])
        polygon_N2 = np.concatenate([polygon_N2[: at + 1], around, polygon_N2[at:]])
    return polygon_N2


def _corners(polygon_N2: np.ndarray) -> np.ndarray:
    """The polygon without points where it goes straight on, which it does along rows, columns and diagonals only."""
    polygon_N2 = polygon_N2[(polygon_N2 != np.roll(polygon_N2, 1, 0)).any(1) | (len(polygon_N2) == 1)]
    steps = np.sign(np.roll(polygon_N2, -1, 0) - polygon_N2)
    corners = polygon_N2[(steps != np.roll(steps, 1, 0)).any(1) | (len(polygon_N2) == 1)]
    return np.concatenate([corners, corners[-1:].repeat(max(0, 3 - len(corners)), 0)])
