"""Masks of photos: read with what has to fit, and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from stcl_cli.data.photos import Photo
from stcl_cli.data.pixels import photo_size
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats.masks import IGNORE, read_mask
from stcl_cli.wording import counted, shown

SAMPLE = 32


class MaskSizeError(PhotoError):
    """A mask that is not of its photo's size."""


def read_full_mask(path: Path, photo: Photo | None, classes: int) -> np.ndarray:
    """A mask (H, W) uint8. PhotoError if it cannot be read or does not fit the classes or, where one is given, its
    photo."""
    mask = read_mask(path)
    full = photo_size(photo.path) if photo else mask.shape
    if mask.shape != full:
        raise MaskSizeError(
            f"{shown(path)}: the mask is {mask.shape[1]} x {mask.shape[0]}, its photo {full[1]} x {full[0]}; "
            "make it anew of that photo"
        )
    highest = int(mask[mask != IGNORE].max(initial=0))
    if highest > classes:
        raise PhotoError(
            f"{shown(path)}: holds class {highest}, but there are {classes} classes; name them all in a classes.txt"
        )
    return mask


def read_photo_mask(path: Path, photo: Photo, size: tuple[int, int], classes: int) -> np.ndarray:
    """`read_full_mask` at the size (H, W) that its (reduced) photo was read at."""
    mask = read_full_mask(path, photo, classes)
    return mask if mask.shape == size else cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)


class MaskTally:
    """What masks hold, counted over all that were added."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.masks = 0
        self.pixels = np.zeros(256, np.int64)  # of each value
        self.holding = np.zeros(256, np.int64)  # masks with at least one pixel of each value
        self.all_background: list[str] = []

    def add(self, name: str, values: np.ndarray) -> None:
        """Add the mask of a photo, given as the number of pixels of each value: (256,) int, from `count_values`."""
        self.masks += 1
        self.pixels += values
        self.holding += values > 0
        if not values[1:IGNORE].any():
            self.all_background.append(name)

    @property
    def blank(self) -> bool:
        """Whether no mask holds a class."""
        return len(self.all_background) == self.masks

    def share(self, value: int) -> float:
        """The share of a value in the pixels of all masks."""
        return float(self.pixels[value] / max(self.pixels.sum(), 1))

    def describe(self, total: int) -> str:
        """The essentials, in a line; `total` is how many masks there are."""
        found = int((self.holding[1 : len(self.classes) + 1] > 0).sum())
        which = "" if self.masks == total else f"{self.masks:,} of "
        return (
            f"{which}{counted(total, 'mask')} looked at: {self.share(0):.1%} of the pixels background, "
            f"{self.share(IGNORE):.1%} ignored (255), {found} of {counted(len(self.classes), 'class')} in them"
        )

    def summary(self) -> dict[str, Any]:
        """Counts and shares as `stcl check --json` prints them."""
        return {
            "masks": self.masks,
            "classes": {
                name: {"masks": int(self.holding[value]), "share": round(self.share(value), 6)}
                for value, name in enumerate(self.classes, 1)
            },
            "background": round(self.share(0), 6),
            "ignored": round(self.share(IGNORE), 6),
            "all_background": self.all_background,
        }


def sample_masks(photos: Sequence[Photo], masks: Mapping[str, Path], classes: tuple[str, ...]) -> MaskTally:
    """A tally of a few dozen masks, evenly spaced over all: enough to see that they are of the wrong kind.

    Where they can be used and hold no class the others are looked at, too, until one does.

    Raises:
        StclError: none of them can be used; names the first.
    """
    tally, reasons = MaskTally(classes), []
    step = -(-len(photos) // SAMPLE)
    sample = photos[::step]
    others = (photo for number, photo in enumerate(photos) if number % step)
    for number, photo in enumerate(chain(sample, others)):
        if number >= len(sample) and not (tally.masks and tally.blank):
            break
        try:
            tally.add(photo.name, count_values(read_full_mask(masks[photo.name], photo, len(classes))))
        except PhotoError as error:
            reasons.append(str(error))
    if not tally.masks:
        raise StclError(f"none of {len(reasons)} masks looked at can be used; the first: {reasons[0]}")
    return tally


def count_values(mask_HW: np.ndarray) -> np.ndarray:
    """Pixels of each value: (256,) int64."""
    return np.array(Image.fromarray(mask_HW).histogram(), np.int64)  # np.bincount would need 8 bytes a pixel
