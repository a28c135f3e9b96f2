"""The photos that a run's memory bank holds, drawn class by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from stcl_cli.data.photos import Photo
from stcl_cli.data.pixels import read_photo
from stcl_cli.errors import PhotoError
from stcl_cli.formats.classes import BACKGROUND
from stcl_cli.formats.memories import Memory
from stcl_cli.report.columns import Picture, jpeg_uri
from stcl_cli.wording import shown

SIDE = 140  # pixels of a picture's longer side
PHOTOS = 8  # of a class
CLASSES = 40  # those with the most entries


class Remembered(NamedTuple):
    """A class of the memory, with its best photos."""

    name: str
    fact: str
    pictures: list[Picture]


def draw_memories(
    memories: list[Memory], classes: tuple[str, ...], photos: Mapping[str, Photo]
) -> tuple[list[Remembered], list[tuple[str, str]]]:
    """What each class that holds anything holds, and (name, reason) of photos that could not be drawn."""
    named = [(name, memory) for name, memory in zip((BACKGROUND, *classes), memories, strict=False) if memory.photos]
    most = sorted(named, key=lambda item: -len(item[1].photos))[:CLASSES]
    reasons: list[tuple[str, str]] = []
    return [_draw(name, memory, photos, reasons) for name, memory in named if (name, memory) in most], reasons


def _draw(name: str, memory: Memory, photos: Mapping[str, Photo], reasons: list[tuple[str, str]]) -> Remembered:
    best = dict(zip(reversed(memory.photos), reversed(memory.qualities), strict=True))  # of each photo
    pictures = []
    for photo in sorted(best, key=lambda photo: -best[photo]):
        if len(pictures) == PHOTOS:
            break
        if photo not in photos:
            continue
        try:
            uri = jpeg_uri(read_photo(photos[photo].path, SIDE))
            pictures.append(Picture(f"{best[photo]:.2f} {shown(photo)}", uri))
        except PhotoError as error:
            reasons.append((photo, str(error)))
    mean = sum(memory.qualities) / len(memory.qualities)
    entries = "1 entry" if len(memory.photos) == 1 else f"{len(memory.photos)} entries"
    return Remembered(name, f"{entries} of {len(best)} photos, mean quality {mean:.2f}", pictures)
