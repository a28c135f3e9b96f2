"""Pixels of a photo: upright, in eight bits, of any kind of file, and no larger than asked for."""

from __future__ import annotations

import math
import os
import struct

import cv2
import numpy as np
from PIL import Image

from stcl_cli.errors import PhotoError
from stcl_cli.formats.images import open_image
from stcl_cli.wording import shown

_STRIP = 2**22  # pixels
_ORIENTATION, _WIDTH, _HEIGHT = 0x0112, 0x0100, 0x0101  # tags of Exif and TIFF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def photo_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) of the photo as `read_photo` gives it, without decoding it (but for a PNG with text after its pixels).

    Raises:
        PhotoError: unreadable.
    """
    with open_image(path) as image:
        return _upright_size(image, path)


def read_photo(path: str | os.PathLike[str], max_side: int | None = None) -> np.ndarray:
    """The photo upright (Exif obeyed) as (H, W, 3) uint8 RGB; transparent parts white, 16-bit greys scaled to 8.

    Args:
        max_side: reduce the longer side to this many pixels, averaging; a smaller photo stays as it is.

    Raises:
        PhotoError: unreadable, cut short, too large, or of a kind that has no colours (values beyond 16 bits).
    """
    with open_image(path) as image:
        height, width = _upright_size(image, path)
        ratio = min(1.0, max_side / max(height, width)) if max_side else 1.0
        if ratio < 1:  # JPEGs decode 2, 4 or 8 times smaller for a fraction of the time; other formats ignore it
            image.draft(None, (math.ceil(image.width * ratio), math.ceil(image.height * ratio)))
        image.load()
        turn = None if image.format == "TIFF" else _TURNS.get(_orientation(image, path))  # Pillow turns TIFFs itself
        # First by a whole number, which needs little memory, to no less than twice the size; the rest below.
        factor = max(image.size) // (2 * max_side) if max_side else 1
        rgb = _to_rgb(image, path) if factor < 2 else _reduced(image, path, factor)
        rgb_HW3 = np.asarray(rgb.transpose(turn) if turn is not None else rgb)
    if ratio < 1:
        size_WH = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        return cv2.resize(rgb_HW3, size_WH, interpolation=cv2.INTER_AREA)
    return np.array(rgb_HW3)  # a writeable copy


def is_turned(image: Image.Image, path: str | os.PathLike[str]) -> bool:
    """Whether a photo (open, not decoded) is stored turned or mirrored, so that `read_photo` turns it back."""
    orientation = image.tag_v2.get(_ORIENTATION) if image.format == "TIFF" else _orientation(image, path)
    return orientation in _TURNS


def has_frames(path: str | os.PathLike[str]) -> bool:
    """Whether the file holds several pages or frames (TIFF, GIF, WebP, PNG), of which `read_photo` takes the first.

    Raises:
        PhotoError: unreadable.
    """
    with open_image(path) as image:  # the second picture of a camera's JPEG ("MPO") is its preview
        return image.format != "MPO" and getattr(image, "is_animated", False)


def _upright_size(image: Image.Image, path: str | os.PathLike[str]) -> tuple[int, int]:
    if image.format == "TIFF":  # some versions of Pillow give the size turned already
        width, height = int(image.tag_v2[_WIDTH]), int(image.tag_v2[_HEIGHT])
        orientation = image.tag_v2.get(_ORIENTATION)
    else:
        width, height = image.size
        orientation = _orientation(image, path)
    return (width, height) if orientation in (5, 6, 7, 8) else (height, width)


def _orientation(image: Image.Image, path: str | os.PathLike[str]) -> int | None:
    if image.format == "PNG" and _has_late_text(path):
        image.load()
    try:  # not image.getexif(), which decodes every PNG without Exif to look for some behind the pixels
        return Image.Image.getexif(image).get(_ORIENTATION)
    except Exception:  # broken Exif data are no reason to refuse the photo
        return None


def _has_late_text(path: str | os.PathLike[str]) -> bool:
    """Whether a PNG has a chunk that may hold Exif after its pixels, where ImageMagick puts it."""
    with open(path, "rb") as file:
        file.seek(8)
        pixels_seen = False
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            pixels_seen |= kind == b"IDAT"
            if pixels_seen and kind in (b"eXIf", b"zTXt", b"tEXt", b"iTXt"):
                return True
            file.seek(length + 4, os.SEEK_CUR)
    return False


def _reduced(image: Image.Image, path: str | os.PathLike[str], factor: int) -> Image.Image:
    """`_to_rgb`, `factor` times smaller by averaging; in strips, so that a large photo is in memory but once."""
    small = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    rows = factor * max(1, _STRIP // (factor * image.width))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        small.paste(_to_rgb(strip, path).reduce(factor), (0, top // factor))
    return small


def _to_rgb(image: Image.Image, path: str | os.PathLike[str]) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, of which Pillow would clip all above 255
        values_HW = np.asarray(image)
        if values_HW.min() < 0 or values_HW.max() > 0xFFFF:
            raise PhotoError(f"{shown(path)}: has values below 0 or above 65,535; scale them to 8 bits or 0 to 65,535")
        grey_HW = (values_HW.astype(np.uint32) * 0xFF + 0x7FFF) // 0xFFFF
        return Image.fromarray(grey_HW.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise PhotoError(f"{shown(path)}: has floating-point values; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
