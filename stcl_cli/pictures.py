"""Pictures for people: photo, CAM and mask side by side. Pure functions on uint8 RGB arrays (H, W, 3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np

from stcl_cli.formats.masks import IGNORE, voc_palette

GAP = 6  # white pixels between two pictures


@cache
def shown_palette() -> np.ndarray:
    """(256, 3) uint8, read-only: the colours of classes on pictures. Those of masks, but 255 is white."""
    palette = voc_palette().copy()
    palette[IGNORE] = 255
    palette.flags.writeable = False
    return palette


def heat(photo_HW3: np.ndarray, cam_HW: np.ndarray) -> np.ndarray:
    """A CAM (0..1, any size) over its photo, blue to red."""
    cam = cv2.resize(np.clip(cam_HW, 0, 1).astype(np.float32), photo_HW3.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap((cam * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[:, :, ::-1]
    return cv2.addWeighted(photo_HW3, 0.4, np.ascontiguousarray(colours), 0.6, 0)


def overlay(photo_HW3: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """A mask over its photo: classes tinted in the mask's palette with a line around, background dimmed, 255 white."""
    palette = shown_palette()
    tinted = cv2.addWeighted(photo_HW3, 0.35, palette[mask_HW], 0.65, 0)
    grey = cv2.cvtColor(photo_HW3, cv2.COLOR_RGB2GRAY)[:, :, None].repeat(3, 2)
    picture = np.where((mask_HW == 0)[:, :, None], cv2.addWeighted(grey, 0.6, np.full_like(grey, 255), 0.4, 0), tinted)
    edge = np.zeros(mask_HW.shape, bool)
    edge[:, 1:] |= mask_HW[:, 1:] != mask_HW[:, :-1]
    edge[1:] |= mask_HW[1:] != mask_HW[:-1]
    picture[edge] = palette[mask_HW][edge] // 2
    return picture


def grid(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str] = ()) -> np.ndarray:
    """Pictures of one size in rows and columns on white, with a title above each column."""
    white = lambda height, width: np.full((height, width, 3), 255, np.uint8)  # noqa: E731
    lines = []
    for row in rows:
        cells = [cell for picture in row for cell in (picture, white(picture.shape[0], GAP))][:-1]
        lines += [np.concatenate(cells, 1), white(GAP, sum(cell.shape[1] for cell in cells))]
    sheet = np.concatenate(lines[:-1], 0)
    if not titles:
        return sheet
    head = white(22, sheet.shape[1])
    for column, title in enumerate(titles):
        left = column * (rows[0][0].shape[1] + GAP)
        cv2.putText(head, title, (left + 2, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
    return np.concatenate([head, sheet], 0)
