"""Large pictures a strip of rows at a time, so that 100 megapixels need little more memory than their result."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

STRIP = 2**22  # pixels


def strips(size: tuple[int, int]) -> Iterator[slice]:
    """The rows of a picture (H, W) in pieces of about STRIP pixels; of most photos that is one piece."""
    step = max(1, STRIP // size[1])
    return (slice(start, min(start + step, size[0])) for start in range(0, size[0], step))


def resized_rows(score_HW: np.ndarray, size: tuple[int, int], rows: slice) -> np.ndarray:
    """`rows` of the float map after bilinear resizing to `size`, as cv2.resize makes them."""
    last = score_HW.shape[0] - 1
    place = np.clip((np.arange(rows.start, rows.stop) + 0.5) * (score_HW.shape[0] / size[0]) - 0.5, 0, last)
    above = place.astype(int)
    share = (place - above).astype(score_HW.dtype)[:, None]
    strip = score_HW[above] * (1 - share) + score_HW[np.minimum(above + 1, last)] * share
    return cv2.resize(strip, (size[1], len(strip)), interpolation=cv2.INTER_LINEAR)


def argmax_at_size(scores_KHW: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The best class of every pixel after bilinear resizing to `size`, uint8."""
    winner_HW = np.zeros(size, np.uint8)
    for rows in strips(size):
        winner = winner_HW[rows]  # a view
        best = resized_rows(scores_KHW[0], size, rows)
        for index, score_HW in enumerate(scores_KHW[1:], 1):
            scores = resized_rows(score_HW, size, rows)
            winner[scores > best] = index
            np.maximum(best, scores, out=best)
    return winner_HW
