"""Photos: finding them, naming them, reading them."""

from __future__ import annotations

import math
import os
import re
import struct
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from stcl_cli.data.matching import SUFFIXES, match_names, stem
from stcl_cli.data.scan import scan_folder
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats.files import decode, read_text, shown
from stcl_cli.formats.images import open_image
from stcl_cli.launch import launch, under_torchrun


@dataclass(frozen=True)
class Photo:
    """A photo on disk.

    Attributes:
        name: relative path without suffix, with '/' ('sub dir/bär 01'); all outputs are called after it. Where
            two photos would share one name, as a.jpg and a.png do, each keeps its suffix in the name.
        path: the file.
    """

    name: str
    path: Path


class PhotoList(NamedTuple):
    """Photos sorted by name, and what was named but cannot be had: (name, reason)."""

    photos: list[Photo]
    missing: list[tuple[str, str]]


# ---- finding -----------------------------------------------------------------------------------------------------


def list_photos(
    source: str | os.PathLike[str], list_file: str | os.PathLike[str] | None = None, kind: str = ""
) -> PhotoList:
    """Find photos in a folder, in a text list, or in a list on stdin.

    A folder is searched recursively: hidden files and output folders of stcl are left out, links are followed once.
    In a list, relative paths count from the working directory, else from the list's own folder; photos are
    named by the paths as given or, where one is absolute or leads outside, relative to their common folder.

    Args:
        source: a folder, a list with one path a line, '-' for stdin, or a single photo.
        list_file: keep only the photos named in this file, one a line, with or without suffix; the second column
            (1, 0, -1) of VOC's lists of one class is passed over: every photo named is kept.
        kind: of a folder only files with this suffix.

    Raises:
        StclError: nothing there, or no photo left.
    """
    source = os.fspath(source)
    if source == "-":
        photos, missing = _from_lines(_stdin_lines(), Path())
    elif os.path.isdir(source):
        paths, missing = scan_folder(Path(source))
        photos = _named({path: Path(source, path) for path in paths if path.lower().endswith(kind)})
    elif not os.path.exists(source):
        raise StclError(f"{shown(source)}: is not there; give a folder of photos, a list of paths, or - for stdin")
    elif source.lower().endswith(SUFFIXES):
        photos, missing = _from_lines([source], Path())
    else:
        photos, missing = _from_lines(_lines(read_text(source, "surrogateescape")), Path(source).parent)
    if not photos:
        first = f" ({shown(missing[0][0])} {missing[0][1]})" if missing else ""
        raise StclError(f"{shown(source)}: holds no photo{first}; give a folder or list of {', '.join(SUFFIXES)} files")
    if list_file:
        photos, missing = _keep(photos, list_file, source)
    return PhotoList(sorted(photos, key=lambda photo: photo.name), missing)


def _from_lines(lines: Iterable[str], folder: Path) -> PhotoList:
    paths: dict[str, Path] = {}
    missing = []
    for line in lines:
        tries = [(text, Path(root, text)) for text in (line, line.strip()) for root in ("", folder)]
        text, path = next(((text, path) for text, path in tries if os.path.exists(path)), (line, None))
        if path is None:
            missing.append((line, "is not there"))
        elif path.is_dir():
            missing.append((line, "is a folder"))
        else:
            same = paths.setdefault(os.path.normpath(text), path)
            if same is not path and not os.path.samefile(same, path):  # .. after a link
                missing.append((line, f"would have the name of {shown(same)}; write its path without links"))
    if any(os.path.isabs(text) or text.split(os.sep)[0] == os.pardir for text in paths):
        absolute = {os.path.abspath(path): path for path in paths.values()}
        common = os.path.commonpath([os.path.dirname(path) for path in absolute])
        paths = {os.path.relpath(text, common): path for text, path in absolute.items()}
    return PhotoList(_named(paths), missing)


def _named(paths: dict[str, Path]) -> list[Photo]:
    """Photos of {relative path: path}, named without suffix unless that is the name or path of another one."""
    count = Counter(map(stem, paths))
    photos = []
    for text, path in paths.items():
        name = stem(text)
        photos.append(Photo(text if count[name] > 1 or (name != text and name in paths) else name, path))
    return photos


def _keep(photos: list[Photo], list_file: str | os.PathLike[str], source: str) -> PhotoList:
    lines = _lines(read_text(list_file, "surrogateescape"))
    found = match_names(lines, photos)
    if len(found) < len(set(lines)):
        lines = _first_column(lines)
        found = match_names(lines, photos)
    if not found:
        first = f" (its first line is '{shown(lines[0])}')" if lines else " (it is empty)"
        raise StclError(f"{shown(list_file)}: names no photo of {shown(source)}{first}; write one name a line")
    reason = f"is in {shown(list_file)} but is no photo of {shown(source)}"
    missing = [(line, reason) for line in dict.fromkeys(lines) if line not in found]
    return PhotoList(list(set(found.values())), missing)


def _first_column(lines: list[str]) -> list[str]:
    """Lines without the 1, 0 or -1 in VOC's lists of one class, if each line ends in one."""
    columns = [re.fullmatch(r"(.*\S)\s+(?:-1|0|1)\s*", line) for line in lines]
    return [column[1] for column in columns if column] if all(columns) else lines


def _lines(text: str) -> list[str]:
    """Lines, or what `find -print0` writes, without blank ones."""
    parts = text.split("\0") if "\0" in text else [line.rstrip("\r") for line in text.split("\n")]
    return [part for part in parts if part.strip()]


_read_from: tuple[Any, list[str]] | None = None  # a stdin that was read, and its lines: there is nothing left in it


def _stdin_lines() -> list[str]:
    global _read_from
    if _read_from is None or _read_from[0] is not sys.stdin:
        if launch().ranks > 1 and under_torchrun():
            raise StclError(
                "-: torchrun's processes share one stdin, and each would read a part; write the list to a file"
            )
        try:
            _read_from = sys.stdin, _lines(decode(sys.stdin.buffer.read(), "surrogateescape"))
        except UnicodeError as error:
            raise StclError(f"stdin: is no UTF-8 text ({error}); pipe a list of paths in") from error
    return _read_from[1]


# ---- reading -----------------------------------------------------------------------------------------------------

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
        PhotoError: unreadable, cut short, too large, or of a kind that has no colours (32-bit values).
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
            raise PhotoError(f"{shown(path)}: has 32-bit values; save it with 8 or 16 bits")
        grey_HW = (values_HW.astype(np.uint32) * 0xFF + 0x7FFF) // 0xFFFF
        return Image.fromarray(grey_HW.astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise PhotoError(f"{shown(path)}: has floating-point values; save it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
