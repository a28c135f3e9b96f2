"""photos.json: which photos a training learns from, or CAMs or predictions are made of, and which classes they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from stcl_cli.errors import StclError
from stcl_cli.formats.files import read_json, write_json
from stcl_cli.formats.locks import one_at_a_time
from stcl_cli.wording import shown, some

PHOTOS = "photos.json"
PhotoLabels = Mapping[str, Sequence[str]]  # classes by the photo's name, in the order a memory bank counts


def write_photo_labels(folder: Path, labels: PhotoLabels) -> None:
    write_json(folder / PHOTOS, labels)


def read_photo_labels(folder: Path) -> dict[str, list[str]] | None:
    """None if there is no such file. StclError if it cannot be read."""
    path = folder / PHOTOS
    if not path.is_file():
        return None
    labels = read_json(path)
    if not (isinstance(labels, dict) and all(isinstance(names, list) for names in labels.values())):
        raise StclError(f"{shown(path)}: does not name photos with their classes; do it anew with --overwrite")
    return labels


def add_photo_labels(folder: Path, labels: PhotoLabels) -> None:
    """To those that are in `folder` already. Shards may do so at the same time."""
    with one_at_a_time(folder):
        before = read_photo_labels(folder) or {}
        if labels.keys() - before.keys():
            write_photo_labels(folder, before | dict(labels))


def check_photo_labels(folder: Path, now: PhotoLabels) -> None:
    """StclError if a photo that `folder` was begun with shows other classes now. Photos may come and go."""
    before = (read_photo_labels(folder) or {}) if now else {}
    changed = [name for name, classes in now.items() if name in before and before[name] != list(classes)]
    if changed:
        raise StclError(
            f"{shown(folder)}: was begun with other labels of {some(changed)}; go on with those, do it anew with "
            "--overwrite, or give another -o"
        )
