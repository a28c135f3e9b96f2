"""PASCAL VOC: one XML file a photo in Annotations/."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stcl_cli.data.labels.rows import Row, Table, files_below
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import clean_name
from stcl_cli.formats.xml import read_xml
from stcl_cli.wording import shown


def read(path: Path, classes: Sequence[str] | None) -> Table:
    """The names of the objects, also of difficult ones, not of their parts nor of those that LabelMe calls deleted.

    A file is named like its photo.

    Args:
        path: the folder of the XML files, or the one with Annotations/ in it.

    Raises:
        StclError: no XML file, or one of another layout; names it.
    """
    folder = path / "Annotations" if (path / "Annotations").is_dir() else path
    rows = []
    for name in files_below(folder, ".xml"):
        origin = shown(folder / name)
        root = read_xml(folder / name)
        if root.tag != "annotation":
            cure = "give this file itself, CVAT's own format" if root.tag == "annotations" else "take it out"
            raise StclError(f"{origin}: its root is <{shown(root.tag)}>, not VOC's <annotation>; {cure}")
        there = (thing for thing in root.iterfind("object") if thing.findtext("deleted") != "1")
        names = [clean_name(thing.findtext("name") or "") for thing in there]
        if not all(names):
            raise StclError(f"{origin}: has an object without a name; name it or take it out")
        rows.append(Row(origin, name[: -len(".xml")], names))
    return Table(rows)
