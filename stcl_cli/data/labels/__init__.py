"""Image-level labels: which classes each photo shows, from whatever people's annotation tools write.

A file a format: each has `read(path, classes) -> Table`, or `read(value, file)` for kinds of JSON. `recognise` finds
the format, `read_labels` makes `Labels` of what was read, `match_labels` brings them together with photos.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from stcl_cli.data.labels import (
    coco,
    csv_table,
    cvat,
    folders,
    json_file,
    label_studio,
    labelme,
    lists,
    masks,
    npy,
    voc,
    yolo,
)
from stcl_cli.data.labels.recognise import recognise
from stcl_cli.data.labels.rows import Table, check_known
from stcl_cli.data.matching import match_names, of_several
from stcl_cli.data.photos import Photo
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import check_classes, is_background
from stcl_cli.wording import shown

READERS = {
    "csv": csv_table.read,
    "folders": folders.read,
    "lists": lists.read,
    "voc": voc.read,
    "yolo": yolo.read,
    "masks": masks.read,
    "npy": npy.read,
    "cvat": cvat.read,
    "labelme": labelme.read,
}
JSON_READERS = {"json": json_file.read, "coco": coco.read, "label-studio": label_studio.read}


@dataclass(frozen=True)
class Labels:
    """Image-level labels.

    Attributes:
        classes: foreground class names; class i has value i + 1 in masks.
        by_name: photo as the file names it -> indices into `classes`, sorted; () is a photo of none of the classes.
        format: what the file was read as, see stcl_cli.config.LABEL_FORMATS.
    """

    classes: tuple[str, ...]
    by_name: dict[str, tuple[int, ...]]
    format: str = field(default="", compare=False)


NO_PHOTO = "has labels, but no photo or no single one"
SEVERAL = "has labels, and fits several photos; write its suffix"


class Matched(NamedTuple):
    """Photos with their labels, photos without, and names without a photo, each as (name, reason)."""

    labelled: list[tuple[Photo, tuple[int, ...]]]
    unlabelled: list[Photo]
    missing: list[tuple[str, str]]


def read_labels(path: str | os.PathLike[str], classes: Sequence[str] | None = None, format: str = "auto") -> Labels:
    """Read image-level labels. Statements about one photo add up. Background is no label and is passed over.

    Args:
        classes: foreground class names in their order; without them the file's own order, else the alphabet's.
        format: one of stcl_cli.config.LABEL_FORMATS; 'auto' looks at the content.

    Raises:
        StclError: unreadable, of another layout, or with a class that is not in `classes`.
    """
    if classes is not None:
        classes = check_classes(classes, "the list of classes")
    format, (rows, order) = _read(Path(path), classes, format)
    shows: dict[str, Collection[str]] = {}
    origins: dict[str, str] = {}  # of classes, where each is named first
    for row in rows:
        for name in row.classes:
            if name not in origins:
                origins[name] = row.origin
        before = shows.setdefault(row.name, row.classes)
        if before is not row.classes:
            shows[row.name] = before = before if isinstance(before, set) else set(before)
            before.update(row.classes)
    if not shows:
        raise StclError(f"{shown(path)}: names no photo; read as {format}, see --labels-format")
    origins = {name: origin for name, origin in origins.items() if not is_background(name)}
    if classes is None:
        for name, origin in origins.items():
            check_classes([name], origin)
        order = sorted(origins) if order is None else [name for name in order if not is_background(name)]
        classes = check_classes(order, shown(path))
    index = {name: number for number, name in enumerate(classes)}
    for name, origin in origins.items():
        check_known([name], index, origin)
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}  # few combinations, of millions of photos
    by_name = {}
    for name, names in shows.items():
        numbers = tuple(sorted({index[name] for name in names if name in index}))
        by_name[name] = shared.setdefault(numbers, numbers)
    return Labels(classes, by_name, format)


def _read(path: Path, classes: tuple[str, ...] | None, format: str) -> tuple[str, Table]:
    found = recognise(path) if format == "auto" else format
    if found in READERS:
        return found, READERS[found](path, classes)
    value = json_file.load(path)
    found = json_file.kind_of(value) if format == "auto" else found
    return found, JSON_READERS[found](value, shown(path))


def match_labels(photos: Sequence[Photo], labels: Labels) -> Matched:
    """Bring photos and labels together by name, see `match_names`; several names of one photo add up."""
    found = match_names(labels.by_name, photos)
    shows: dict[str, set[int]] = {}
    for name, photo in found.items():
        shows.setdefault(photo.name, set()).update(labels.by_name[name])
    missing = [name for name in labels.by_name if name not in found]
    several = of_several(missing, photos) if missing else set()
    return Matched(
        labelled=[(photo, tuple(sorted(shows[photo.name]))) for photo in photos if photo.name in shows],
        unlabelled=[photo for photo in photos if photo.name not in shows],
        missing=[(name, SEVERAL if name in several else NO_PHOTO) for name in missing],
    )


def labels_of(
    photos: Sequence[Photo], path: str, classes: Sequence[str], format: str, images: str
) -> tuple[dict[str, tuple[int, ...]], list[Photo]]:
    """What a file of labels says of photos, as indices into `classes` by their names; and those it says nothing of.

    `images` is what the photos were listed by, for messages.

    Raises:
        StclError: as `read_labels`; none of its names is one of the photos'.
    """
    table = read_labels(path, classes, format)
    labelled, unlabelled, _ = match_labels(photos, table)
    if not labelled:
        raise none_matched(path, table, images, photos)
    return {photo.name: shows for photo, shows in labelled}, unlabelled


def none_matched(file: str, labels: Labels, images: str, photos: Sequence[Photo]) -> StclError:
    """What to say where `match_labels` finds no photo; neither may be empty."""
    first = next(iter(labels.by_name))
    if of_several([first], photos):
        return StclError(f"{shown(file)}: '{shown(first)}' {SEVERAL}, and no other of its names is a photo's")
    return StclError(
        f"{shown(file)}: none of its names is a photo in {shown(images)}; it names "
        f"'{shown(first)}', there is '{shown(photos[0].name)}'"
    )
