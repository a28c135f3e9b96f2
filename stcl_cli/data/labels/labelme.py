"""LabelMe: a JSON file beside each photo, with shapes and flags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stcl_cli.data.labels.rows import Row, Table, class_names, files_below
from stcl_cli.errors import StclError
from stcl_cli.formats.files import read_json
from stcl_cli.wording import shown


def read(path: Path, classes: Sequence[str] | None) -> Table:
    """The labels of the shapes and the flags that are set. A file is named like its photo.

    Raises:
        StclError: no JSON file, or one of another layout; names it.
    """
    rows = []
    for name in files_below(path, ".json"):
        origin = shown(path / name)
        value = read_json(path / name)
        try:
            labels = [shape["label"] for shape in value["shapes"]]
            flags = [flag for flag, is_set in (value.get("flags") or {}).items() if is_set]
        except (KeyError, TypeError, AttributeError) as error:
            raise StclError(f"{origin}: has no shapes with labels as LabelMe writes them; take it out") from error
        labels = [
            label for label in labels if label != "__ignore__"
        ]  # LabelMe's own, for regions that are not to count
        rows.append(Row(origin, name[: -len(".json")], class_names(labels + flags, origin)))
    return Table(rows)
