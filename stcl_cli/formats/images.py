"""Opening image files that strangers made, the one place where Pillow is let near them, and writing JPEGs."""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from stcl_cli.errors import PhotoError
from stcl_cli.formats.files import atomic_write
from stcl_cli.runtime.watch import reading
from stcl_cli.wording import shown

# By content, whatever the suffix says. A short list on purpose: Pillow's EPS reader, for one, starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")

# 16,384 x 16,384 pixels, 768 MB as RGB: well above any camera, well below a decompression bomb.
MAX_PIXELS = 2**28
Image.MAX_IMAGE_PIXELS = MAX_PIXELS
# Where Pillow warns of bombs, `open_image` refuses; its other warnings (broken Exif) are nothing a user need cure.
warnings.filterwarnings("ignore", module=r"PIL\.")


@contextmanager
def open_image(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Open an image file by its content; decode it inside the block.

    Raises:
        PhotoError: whatever goes wrong in opening or in the block, as one line with path and reason.
    """
    try:
        with reading(path):
            status = os.stat(path)  # before opening: a FIFO would block for ever
            if not stat.S_ISREG(status.st_mode):
                raise PhotoError(f"{shown(path)}: is not a regular file; leave it out")
            if status.st_size == 0:
                raise PhotoError(f"{shown(path)}: is empty (0 bytes); copy it again or leave it out")
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                yield image
    except PhotoError:
        raise
    except Exception as error:  # decoders of broken files raise anything from struct.error to IndexError
        raise PhotoError(f"{shown(path)}: {_reason(error)}") from error


def encode_jpeg(rgb_HW3: np.ndarray, quality: int) -> bytes:
    """uint8 RGB as a JPEG without colour subsampling, which would blur the colours of masks."""
    jpeg = io.BytesIO()
    Image.fromarray(rgb_HW3).save(jpeg, "JPEG", quality=quality, subsampling=0)
    return jpeg.getvalue()


def encode_png(rgb_HW3: np.ndarray) -> bytes:
    """uint8 RGB as a PNG."""
    png = io.BytesIO()
    Image.fromarray(rgb_HW3).save(png, "PNG")
    return png.getvalue()


def write_jpeg(path: str | os.PathLike[str], rgb_HW3: np.ndarray) -> None:
    """Write uint8 RGB as a JPEG of high quality, atomically.

    Raises:
        StclError: `path` cannot be written.
    """
    jpeg = encode_jpeg(rgb_HW3, 95)  # whole in memory first: Pillow hides the reason when a disk fills up under it
    with atomic_write(path) as temporary:
        temporary.write_bytes(jpeg)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        formats = ", ".join(FORMATS)
        return f"is not an image ({formats}), or of a rare kind, or its header is broken; convert it or leave it out"
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than {MAX_PIXELS:,} pixels; cut it into tiles or make it smaller"
    if isinstance(error, MemoryError):
        return "does not fit into memory; make it smaller or use fewer workers"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror}); check the path and its permissions"
    return f"cannot be decoded ({shown(str(error)) or type(error).__name__}); copy it again or leave it out"
