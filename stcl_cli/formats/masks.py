"""Masks: 8-bit palette PNGs, pixel value = class index, 0 = background, 255 = ignore (the PASCAL VOC layout)."""

from __future__ import annotations

import io
import os
from functools import cache

import numpy as np
from PIL import Image

from stcl_cli.errors import PhotoError
from stcl_cli.formats.files import atomic_write
from stcl_cli.formats.images import open_image
from stcl_cli.wording import shown

IGNORE = 255

# Pillow stretches 2-bit and 4-bit greyscale to 0..255; this takes it back to indices.
_STRETCH = {"L;2": 85, "L;4": 17}


@cache
def voc_palette() -> np.ndarray:
    """(256, 3) uint8, read-only. Colour i spreads the bits of i over R, G, B, high bits first (VOC devkit's rule)."""
    index = np.arange(256)
    palette = np.zeros((256, 3), int)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    palette = palette.astype(np.uint8)
    palette.flags.writeable = False
    return palette


def encode_mask(mask_HW: np.ndarray, palette: bool = True) -> bytes:
    """uint8 class indices as an 8-bit PNG: in VOC colours, or with `palette` off as greys."""
    if mask_HW.dtype != np.uint8 or mask_HW.ndim != 2 or not mask_HW.size:
        raise ValueError(f"a mask is uint8 (H, W), not {mask_HW.dtype} {mask_HW.shape}")
    image = Image.fromarray(mask_HW)
    if palette:
        image.putpalette(voc_palette().tobytes())
    png = io.BytesIO()
    image.save(png, "PNG")
    return png.getvalue()


def write_mask(path: str | os.PathLike[str], mask_HW: np.ndarray, palette: bool = True) -> None:
    """Write uint8 class indices as an 8-bit PNG, atomically; see `encode_mask`.

    Raises:
        StclError: `path` cannot be written.
    """
    png = encode_mask(mask_HW, palette)  # whole in memory first: Pillow hides the reason when a disk fills up under it
    with atomic_write(path) as temporary:
        temporary.write_bytes(png)


def read_mask(path: str | os.PathLike[str]) -> np.ndarray:
    """Class indices (H, W) uint8 of a palette or greyscale image; an Exif rotation is not applied.

    Raises:
        PhotoError: unreadable, in colours, lossy (JPEG), or with values above 255.
    """
    with open_image(path) as image:
        if image.format == "JPEG":
            raise PhotoError(f"{shown(path)}: is a JPEG, which blurs class indices; save the mask as a palette PNG")
        stored = image.tile[0][3] if image.tile else ""  # the decoder's arguments: the stored mode, alone or first
        stretch = _STRETCH.get(stored[0] if isinstance(stored, tuple) else stored, 1)
        image.load()
        if image.mode in ("P", "L"):
            return np.asarray(image) // np.uint8(stretch)
        if image.mode == "1":
            return np.asarray(image).astype(np.uint8)
        if image.mode.startswith("I"):
            values_HW = np.asarray(image)
            if values_HW.min() >= 0 and values_HW.max() <= 255:
                return values_HW.astype(np.uint8)
            raise PhotoError(f"{shown(path)}: has values above 255; save the mask with 8 bits, 255 = ignore")
        raise PhotoError(
            f"{shown(path)}: is in colours ({image.mode}), not class indices; save it as a palette or greyscale PNG"
        )
