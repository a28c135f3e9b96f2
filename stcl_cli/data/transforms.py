"""Training augmentation of a photo (and its mask), in numpy: one draw of random numbers serves both."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from stcl_cli.formats.masks import IGNORE


class View(NamedTuple):
    """A square training view; what the photo does not cover is padding."""

    photo_HW3: np.ndarray  # uint8 RGB
    mask_HW: np.ndarray | None  # uint8, 255 on padding
    box: tuple[int, int, int, int]  # top, bottom, left, right of the photo inside the view


def random_view(
    photo_HW3: np.ndarray,
    mask_HW: np.ndarray | None,
    rng: np.random.Generator,
    crop_size: int,
    rescale: tuple[float, float],
    padding_rgb: tuple[int, int, int],
) -> View:
    """Random rescaling, mirroring and cropping to `crop_size`; a smaller photo is put at a random place on padding."""
    scale = np.exp(rng.uniform(np.log(rescale[0]), np.log(rescale[1])))
    height, width = (max(1, round(side * scale)) for side in photo_HW3.shape[:2])
    mirror = rng.random() < 0.5
    # Cut before resizing: only what the crop shows is resized, which is most of a loader's time at large scales.
    top, crop_height, pad_top = _place(height, crop_size, rng)
    left, crop_width, pad_left = _place(width, crop_size, rng)
    window = (
        slice(int(top / scale), max(int(top / scale) + 1, round((top + crop_height) / scale))),
        slice(int(left / scale), max(int(left / scale) + 1, round((left + crop_width) / scale))),
    )
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    target = (crop_width, crop_height)
    rows, columns = slice(pad_top, pad_top + crop_height), slice(pad_left, pad_left + crop_width)
    view = np.full((crop_size, crop_size, 3), padding_rgb, np.uint8)
    view[rows, columns] = cv2.resize(photo_HW3[window], target, interpolation=interpolation)
    mask = None
    if mask_HW is not None:
        mask = np.full((crop_size, crop_size), IGNORE, np.uint8)
        mask[rows, columns] = cv2.resize(mask_HW[window], target, interpolation=cv2.INTER_NEAREST_EXACT)
    if mirror:
        view = view[:, ::-1]
        mask = None if mask is None else mask[:, ::-1]
        pad_left = crop_size - pad_left - crop_width
    return View(view, mask, (pad_top, pad_top + crop_height, pad_left, pad_left + crop_width))


def _place(side: int, crop: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """Where a crop starts in the photo, how long it is, and how much padding comes before it."""
    if side >= crop:
        return int(rng.integers(side - crop + 1)), crop, 0
    return 0, side, int(rng.integers(crop - side + 1))
