"""A folder a class: photos/cat/1.jpg shows a cat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stcl_cli.data.labels.rows import Row, Table
from stcl_cli.data.photos import list_photos
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import clean_name
from stcl_cli.wording import shown


def read(path: Path, classes: Sequence[str] | None) -> Table:
    """Every photo shows the class that the sub-folder of `path` which it lies in is called after.

    Raises:
        StclError: no such sub-folder.
    """
    photos = list_photos(path).photos
    inside = [(photo, photo.path.relative_to(path).parts[0]) for photo in photos if "/" in photo.name]
    if not inside:
        raise StclError(f"{shown(path)}: has no sub-folders with photos; make one for each class, or give a CSV file")
    return Table([Row(shown(photo.path), photo.name, [clean_name(name)]) for photo, name in inside])
