"""COCO instances: annotations/instances_train.json (https://cocodataset.org/#format-data).

One annotation for each class and photo, with the region as uncompressed RLE, the one run-length encoding the format
describes, so any shape is kept to the pixel. `iscrowd` is 0: trainers leave crowds out, and these regions are what they
shall learn from. Category ids are the values in the masks. COCO has no way to say that a pixel is ignored: pixels of
255 are in no annotation.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

import stcl_cli
from stcl_cli.data.matching import with_suffix
from stcl_cli.export.writer import Item, Writer
from stcl_cli.formats.files import atomic_write, json_bytes
from stcl_cli.formats.masks import IGNORE


class CocoWriter(Writer):
    """Annotations go to the file one by one; so 20,000 photos need no memory."""

    keeps_ignored = False

    def __init__(self, folder: Path, classes: tuple[str, ...]) -> None:
        super().__init__(folder, classes)
        self.file = folder / "annotations" / "instances_train.json"
        self.images: list[dict[str, Any]] = []
        self.ids = count(1)

    def __enter__(self) -> CocoWriter:
        temporary = self.open_files.enter_context(atomic_write(self.file))
        self.stream = self.open_files.enter_context(open(temporary, "wb"))
        self.stream.write(b'{"annotations": [')
        return self

    def write(self, item: Item) -> None:
        image_id = len(self.images) + 1
        for annotation in annotations(item.mask_HW):
            number = next(self.ids)
            line = json.dumps({"id": number, "image_id": image_id, **annotation}, separators=(",", ":"))
            self.stream.write((",\n" if number > 1 else "\n").encode() + line.encode())
        file_name = with_suffix(item.photo) if item.photo else f"{item.name}.jpg"
        height, width = item.mask_HW.shape
        self.images.append({"id": image_id, "file_name": file_name, "width": width, "height": height})

    def finish(self, names: list[str]) -> None:
        categories = [{"id": value, "name": name, "supercategory": ""} for value, name in enumerate(self.classes, 1)]
        info = {"description": f"stcl {stcl_cli.__version__} export"}
        tail = {"images": self.images, "categories": categories, "info": info, "licenses": []}
        self.stream.write(b"\n], " + json_bytes(tail)[1:])


def annotations(mask_HW: np.ndarray) -> Iterator[dict[str, Any]]:
    """COCO annotations of a mask, without ids of their own: one for each class in it, by value."""
    for value in np.unique(mask_HW).tolist():
        if value not in (0, IGNORE):
            region_HW = mask_HW == value
            columns, rows = np.flatnonzero(region_HW.any(0)), np.flatnonzero(region_HW.any(1))
            left, top = int(columns[0]), int(rows[0])
            yield {
                "category_id": value,
                "iscrowd": 0,
                "area": int(region_HW.sum()),
                "bbox": [left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1],
                "segmentation": {"size": list(region_HW.shape), "counts": run_lengths(region_HW)},
            }


def run_lengths(region_HW: np.ndarray) -> list[int]:
    """COCO's run lengths of a bool map: column after column, of False and True in turn, the first of False."""
    flat = region_HW.ravel(order="F")
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return [0] * bool(flat[0]) + np.diff(ends, prepend=0, append=flat.size).tolist()
