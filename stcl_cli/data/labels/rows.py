"""What every label reader gives, and the pieces that several of them need."""

from __future__ import annotations

import difflib
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from stcl_cli.errors import StclError
from stcl_cli.formats.classes import clean_name
from stcl_cli.wording import shown

# Names of the columns or keys that hold a photo and its classes, in the label files people and tools write.
# fmt: off
IMAGE_KEYS = frozenset({
    "image", "images", "image_id", "image_name", "image_path", "image_file", "image_filename", "img", "file", "files",
    "filename", "file_name", "file_path", "filepath", "name", "photo", "photo_name", "path",
})
LABEL_KEYS = frozenset({
    "label", "labels", "class", "classes", "class_name", "class_label", "label_name", "category", "category_name",
    "categories", "tag", "tags", "choice", "choices",
})
# fmt: on
# What folders and lists of the parts of a data set are called, which are no classes.
PARTS = frozenset({"train", "training", "val", "valid", "validation", "trainval", "test", "images", "labels", "masks"})


def key_of(text: str) -> str:
    """A column's or key's name as those above are written: 'Image Name' is image_name."""
    return "_".join(text.casefold().split())


class Row(NamedTuple):
    """One statement of a label file: this photo shows these classes. `origin` is the file and line or key."""

    origin: str
    name: str
    classes: Sequence[str]


class Table(NamedTuple):
    """What a reader gives: rows, to be gone through once, and the class names in the file's own order if it has one."""

    rows: Iterable[Row]
    classes: Sequence[str] | None = None


def split_names(text: str, joiners: str = ";|") -> list[str]:
    """'cat; dog' -> ['cat', 'dog']."""
    return [name for name in map(clean_name, re.split(f"[{re.escape(joiners)}]", text)) if name]


def class_names(value: Any, origin: str) -> list[str]:
    """Class names in a JSON value: 'cat;dog', ['cat', 'dog'], {'cat': 1, 'dog': 0}, or regions of Label Studio.

    Raises:
        StclError: anything else; a number is no name.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return split_names(value)
    if isinstance(value, dict):
        if is_flags(value.values()):
            return [clean_name(name) for name, flag in value.items() if flag]
        lists = [names for key, names in value.items() if key == "choices" or key.endswith("labels")]
        if lists and all(isinstance(names, list) for names in lists):
            return [_name(name, origin) for names in lists for name in names]
    if isinstance(value, list):
        lists = [class_names(item, origin) if isinstance(item, dict) else [_name(item, origin)] for item in value]
        return [name for names in lists for name in names]
    return [_name(value, origin)]


def is_flags(values: Iterable[Any]) -> bool:
    """Whether all are 0, 1, true or false (0 and 1 of any kind equal those)."""
    return all(isinstance(value, int | float) and value in (0, 1) for value in values)


def file_in(url: str) -> str:
    """'/data/local-files/?d=a%20b/c.jpg' of Label Studio -> 'a b/c.jpg'; the path of any other address."""
    try:
        parts = urlsplit(url)
    except ValueError:  # what looks like an address and is none
        return url
    if parts.path.startswith("/data/local-files"):
        return parse_qs(parts.query).get("d", [""])[0]
    return unquote(parts.path) if parts.scheme or url.startswith("/data/") else url


def uploaded_file(name: str) -> str:
    """`file_in` of an address in Label Studio's tables; any other name as it is."""
    is_address = name.startswith(("/data/local-files/?d=", "/data/upload/"))
    return (file_in(name) or name) if is_address else name


def check_known(names: Iterable[str], classes: Iterable[str], origin: str) -> None:
    """Raise StclError for a class name that is not among `classes`."""
    known = list(classes)
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            correct = f"correct it to {close[0]!r}" if close else "correct it"
            cure = f"{correct}, add it to the classes, or call it background if it stands for nothing"
            raise StclError(f"{origin}: unknown class '{shown(name)}'; {cure}")


def files_below(folder: Path, suffix: str) -> list[str]:
    """Relative paths, with '/', of the files under `folder` that end in `suffix`, sorted; hidden ones are left out.

    Raises:
        StclError: there is none.
    """
    paths = [path for path in walk(folder) if path.lower().endswith(suffix)]
    if not paths:
        raise StclError(f"{shown(folder)}: holds no {suffix} file; give the folder that does")
    return sorted(paths)


def walk(folder: Path) -> Iterator[str]:
    """Relative paths, with '/', of all files under `folder` that are not hidden."""
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(root, folder).replace(os.sep, "/")
        yield from (posixpath.normpath(f"{below}/{name}") for name in files if not name.startswith("."))


def _name(value: Any, origin: str) -> str:
    if not isinstance(value, str):
        text = shown(repr(value))
        text = text if len(text) <= 40 else f"{text[:40]}..."
        raise StclError(f"{origin}: {text} is no class name; write names, in quotes")
    return clean_name(value)
