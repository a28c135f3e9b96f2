"""CVAT's own export, 'CVAT for images 1.1': one annotations.xml for all photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from stcl_cli.data.labels.rows import Row, Table
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import clean_name
from stcl_cli.formats.xml import read_xml
from stcl_cli.wording import shown


def read(path: Path, classes: Sequence[str] | None) -> Table:
    """The labels of tags, boxes, outlines, masks, points and skeletons (not of their points).

    Classes are in the order of CVAT's list of labels.

    Raises:
        StclError: not an export of images.
    """
    file = path / "annotations.xml" if path.is_dir() else path
    rows: list[Row] = []

    def finished(element: Element) -> None:
        if element.tag == "image":
            name = element.get("name")
            if not name:
                raise StclError(f"{shown(file)} image {len(rows) + 1}: has no name; export it anew")
            labels = [clean_name(child.attrib["label"]) for child in element if "label" in child.attrib]
            rows.append(Row(f"{shown(file)} image '{shown(name)}'", name, labels))
            element.clear()

    root = read_xml(file, finished)
    if root.tag != "annotations" or not rows:
        raise StclError(
            f"{shown(file)}: lists no images; export 'CVAT for images 1.1', or give VOC's folder of XML files"
        )
    listed = next((labels.findall("label") for labels in root.iter("labels")), [])
    names = [clean_name(label.findtext("name") or "") for label in listed if not label.findtext("parent")]
    return Table(rows, names or None)
