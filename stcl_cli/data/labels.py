"""Image-level labels: which classes each photo shows."""

from __future__ import annotations

import csv
import difflib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stcl_cli.data.matching import match_names
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import check_classes, clean_name, is_background
from stcl_cli.formats.files import read_text, shown

# First lines that are headers of a file of pairs, not a photo and its class.
_IMAGE_HEADERS = {"image", "images", "image_id", "file", "filename", "file_name", "name", "photo", "path"}
_LABEL_HEADERS = {"label", "labels", "class", "classes", "tags"}
_SHOWN = {"1", "1.0"}
_FLAGS = _SHOWN | {"0", "0.0", ""}


@dataclass(frozen=True)
class Labels:
    """Image-level labels.

    Attributes:
        classes: foreground class names; class i has value i + 1 in masks.
        by_name: photo as the file names it -> indices into `classes`, sorted; () is a photo of none of the classes.
    """

    classes: tuple[str, ...]
    by_name: dict[str, tuple[int, ...]]


class Matched(NamedTuple):
    """Photos with their labels, photos without, and names without a photo, each as (name, reason)."""

    labelled: list[tuple[Photo, tuple[int, ...]]]
    unlabelled: list[Photo]
    missing: list[tuple[str, str]]


class _Row(NamedTuple):
    """One statement of a label file: this photo shows these classes. `origin` is the file and line."""

    origin: str
    name: str
    classes: list[str]


def read_labels(path: str | os.PathLike[str], classes: Sequence[str] | None = None) -> Labels:
    """Read image-level labels.

    `path` is a CSV file of pairs (`image,labels`, several labels joined by ';', header optional), a CSV file with a
    column of 0 and 1 for each class (names in the header), or a folder with a sub-folder of photos for each class.
    Lines of one image add up. Background is no label and is passed over.

    Args:
        classes: foreground class names in their order; without them the order of the columns, else of the alphabet.

    Raises:
        StclError: unreadable, of another layout, or with a class that is not in `classes`.
    """
    if classes is not None:
        classes = check_classes(classes, "the list of classes")
    if os.path.isdir(path):
        rows, columns = _from_folder(Path(path)), None
    else:
        rows, columns = _from_csv(path, classes)
    rows = [row._replace(classes=[name for name in row.classes if not is_background(name)]) for row in rows]
    if classes is None:
        named = {name: row.origin for row in reversed(rows) for name in row.classes}
        for name, origin in named.items():
            check_classes([name], origin)
        classes = check_classes(columns if columns is not None else sorted(named), shown(path))
    index = {name: number for number, name in enumerate(classes)}
    by_name: dict[str, set[int]] = {}
    for row in rows:
        unknown = next((name for name in row.classes if name not in index), None)
        if unknown is not None:
            raise StclError(f"{row.origin}: unknown class '{shown(unknown)}'; {_cure(unknown, classes)}")
        by_name.setdefault(row.name, set()).update(index[name] for name in row.classes)
    return Labels(classes, {name: tuple(sorted(shows)) for name, shows in by_name.items()})


def match_labels(photos: Sequence[Photo], labels: Labels) -> Matched:
    """Bring photos and labels together by name, see `match_names`; several names of one photo add up."""
    found = match_names(labels.by_name, photos)
    shows: dict[str, set[int]] = {}
    for name, photo in found.items():
        shows.setdefault(photo.name, set()).update(labels.by_name[name])
    return Matched(
        labelled=[(photo, tuple(sorted(shows[photo.name]))) for photo in photos if photo.name in shows],
        unlabelled=[photo for photo in photos if photo.name not in shows],
        missing=[(name, "has labels, but no photo or no single one") for name in labels.by_name if name not in found],
    )


def _from_folder(folder: Path) -> list[_Row]:
    photos = list_photos(folder).photos
    inside = [(photo, photo.path.relative_to(folder).parts[0]) for photo in photos if "/" in photo.name]
    if not inside:
        raise StclError(f"{shown(folder)}: has no sub-folders with photos; make one for each class, or give a CSV file")
    return [_Row(shown(photo.path), photo.name, [clean_name(name)]) for photo, name in inside]


def _from_csv(path: str | os.PathLike[str], classes: Sequence[str] | None) -> tuple[list[_Row], list[str] | None]:
    """Rows, and the class names of the columns where there is a column a class."""
    file = shown(path)
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        lines = [(f"{file} line {reader.line_num}", cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise StclError(f"{file} line {reader.line_num}: is not CSV ({error}); correct it") from error
    if not lines:
        raise StclError(f"{file}: is empty; write a line 'image,labels' for each photo")
    width = len(lines[0][1])
    for origin, cells in lines:
        if len(cells) != width or width < 2:
            cure = "write image,class;class and put names with a comma into quotes"
            raise StclError(f"{origin}: has {len(cells)} columns instead of {max(width, 2)}; {cure}")
    if width > 2 or _is_one_column(lines):
        return _from_columns(path, lines, classes)
    first = [cell.strip().casefold() for cell in lines[0][1]]
    if first[0] in _IMAGE_HEADERS and first[1] in _LABEL_HEADERS:
        lines = lines[1:]
    return [_Row(origin, cells[0], _split(cells[1])) for origin, cells in lines], None


def _split(labels: str) -> list[str]:
    return [name for name in map(clean_name, labels.split(";")) if name]


def _is_one_column(lines: list[tuple[str, list[str]]]) -> bool:
    """Whether two columns are an image and a class name with 0 and 1 below, not pairs with classes called 0 and 1."""
    header, *flags = [cells[1].strip() for _, cells in lines]
    return bool(flags) and header.casefold() not in _LABEL_HEADERS | _FLAGS and _FLAGS.issuperset(flags)


def _from_columns(
    path: str | os.PathLike[str], lines: list[tuple[str, list[str]]], classes: Sequence[str] | None
) -> tuple[list[_Row], list[str]]:
    origin, header = lines[0]
    names = [clean_name(cell) for cell in header[1:]]
    if _FLAGS.issuperset(names):  # no header: the columns are the classes in their order
        if classes is None or len(classes) != len(names):
            raise StclError(
                f"{shown(path)}: {len(names)} columns of 0 and 1 without a header; write the class names on top"
            )
        names = list(classes)
    else:
        lines = lines[1:]
    rows = []
    for line, (image, *cells) in lines:
        flags = [cell.strip() for cell in cells]
        wrong = next((flag for flag in flags if flag not in _FLAGS), None)
        if wrong is not None:
            cure = "write one of them, or join the classes of an image with ';' in one column"
            raise StclError(f"{line}: '{shown(wrong)}' is neither 0 nor 1; {cure}")
        rows.append(_Row(line, image, [name for name, flag in zip(names, flags, strict=True) if flag in _SHOWN]))
    columns = list(check_classes([name for name in names if not is_background(name)], origin))
    unknown = next((name for name in columns if classes is not None and name not in classes), None)
    if unknown is not None:
        raise StclError(f"{origin}: unknown class '{unknown}'; {_cure(unknown, classes or ())}")
    return rows, columns


def _cure(unknown: str, classes: Iterable[str]) -> str:
    close = difflib.get_close_matches(unknown, list(classes), n=1)
    return f"correct it{f' to {close[0]!r}' if close else ''} or add it to the classes"
