"""classes.txt: one class name a line; the line's number, from 0 = background, is the value in masks."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from stcl_cli.errors import StclError
from stcl_cli.formats.files import atomic_write, read_text
from stcl_cli.wording import shown

CLASSES = "classes.txt"
BACKGROUND = "background"
MAX_CLASSES = 254  # 0 is background, 255 ignore


def clean_name(text: str) -> str:
    """A class name in the one spelling it has everywhere: composed Unicode (NFC), no blanks around it."""
    return unicodedata.normalize("NFC", text).strip()


def is_background(name: str) -> bool:
    """Whether a class name means background: background, _background_, __background__ in any case."""
    return name.casefold() in ("background", "_background_", "__background__")


def check_classes(names: Iterable[str], origin: str) -> tuple[str, ...]:
    """Foreground class names, cleaned.

    Args:
        origin: the file (and line) that an error names.

    Raises:
        StclError: no name, more than 254, twice the same, an empty one, a control character, or background.
    """
    classes = tuple(map(clean_name, names))
    if not classes:
        raise StclError(f"{origin}: names no class; write at least one")
    if len(classes) > MAX_CLASSES:
        raise StclError(f"{origin}: names {len(classes)} classes; 8-bit masks have room for {MAX_CLASSES}")
    for name in classes:
        if not name:
            raise StclError(f"{origin}: has an empty class name; give every class a name")
        if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in name):
            raise StclError(f"{origin}: class name '{shown(name)}' has a control character; take it out")
        if is_background(name):
            raise StclError(f"{origin}: '{name}' is no class of its own: it is always value 0; take it out")
    double = next((name for name, count in Counter(classes).items() if count > 1), None)
    if double is not None:
        raise StclError(f"{origin}: names class '{double}' twice; take one out")
    return classes


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Foreground class names of a text file, one a line; a first line that says background is left out.

    Raises:
        StclError: unreadable, or not a list of at most 254 different names.
    """
    lines = [clean_name(line) for line in read_text(path).rstrip().split("\n")]
    return check_classes(lines[1:] if is_background(lines[0]) else lines, shown(path))


def write_classes(path: str | os.PathLike[str], classes: Iterable[str]) -> None:
    """Write background and the foreground `classes`, one a line, atomically."""
    classes = check_classes(classes, shown(path))
    with atomic_write(path) as temporary:
        temporary.write_bytes("".join(f"{name}\n" for name in (BACKGROUND, *classes)).encode())


def classes_of(folder: Path) -> tuple[str, ...] | None:
    """Foreground class names of the classes.txt in `folder` or beside it; None where there is none.

    Raises:
        StclError: it cannot be used.
    """
    for place in (folder, folder.absolute().parent):
        if (place / CLASSES).is_file():
            return read_classes(place / CLASSES)
    return None


def find_classes(file: str | os.PathLike[str] | None, *folders: Path) -> tuple[str, ...]:
    """Foreground class names of `file`, else of the first classes.txt in one of `folders` or beside it.

    Raises:
        StclError: there is none, or it cannot be used.
    """
    if file:
        return read_classes(file)
    for folder in folders:
        if (names := classes_of(folder)) is not None:
            return names
    where = " nor ".join(shown(folder) for folder in folders)
    raise StclError(f"{where}: no {CLASSES} in or beside it; write one, a class a line")
