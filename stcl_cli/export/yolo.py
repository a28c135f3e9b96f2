"""Ultralytics, for `yolo segment train` and `yolo semantic train` (https://docs.ultralytics.com/datasets/).

Labels, or masks, mirror images/train; data.yaml says so. Without --images there is no images/train: put the photos
there under the names of the labels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stcl_cli.export.photos import place_photo
from stcl_cli.export.polygons import polygons
from stcl_cli.export.writer import Item, Writer
from stcl_cli.formats.classes import BACKGROUND
from stcl_cli.formats.files import atomic_write, output_path
from stcl_cli.formats.masks import IGNORE, write_mask

# Where in its pixel a corner lies. Rounded down (Ultralytics) or to the nearest (supervision) it gives the pixel, and
# so does what Ultralytics puts between corners along diagonals, which an offset away from the middle would not.
CORNER = 0.49


class YoloWriter(Writer):
    """One line an object: class, then its polygon in shares of width and height. Classes count from 0, no background.

    An object is an 8-connected region of one class. Ignored pixels are in no object: Ultralytics trains on them as
    background.
    """

    keeps_ignored = False

    def target(self, name: str) -> Path:
        return output_path(self.folder / "labels" / "train", ultralytics_name(name), ".txt")

    def write(self, item: Item) -> None:
        place_photo(item, self.folder / "images" / "train", ultralytics_name(item.name))
        with atomic_write(self.target(item.name)) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines(item.mask_HW)))

    def finish(self, names: list[str]) -> None:
        write_data_yaml(self.folder, self.classes)


class SemanticWriter(Writer):
    """Greyscale PNGs of class indices, background among the classes, 255 ignored."""

    def target(self, name: str) -> Path:
        return output_path(self.folder / "masks" / "train", ultralytics_name(name), ".png")

    def write(self, item: Item) -> None:
        place_photo(item, self.folder / "images" / "train", ultralytics_name(item.name))
        write_mask(self.target(item.name), item.mask_HW, palette=False)

    def finish(self, names: list[str]) -> None:
        write_data_yaml(self.folder, (BACKGROUND, *self.classes), masks_dir="masks")


def lines(mask_HW: np.ndarray) -> list[str]:
    """Label lines of a mask."""
    height, width = mask_HW.shape
    rows = []
    for value in np.unique(mask_HW).tolist():
        if value not in (0, IGNORE):
            for polygon_N2 in polygons(mask_HW == value):
                shares = ((polygon_N2 + CORNER) / (width, height)).ravel()
                rows.append(f"{value - 1} " + " ".join(f"{share:.7f}" for share in shares))
    return rows


def ultralytics_name(name: str) -> str:
    """`name`, but with images_ for a folder images in it: the last folder of that name is Ultralytics' own.

    And images__ for images_, so that no two names become one.
    """
    *folders, base = name.split("/")
    return "/".join([*(re.sub(r"^images_*$", r"\g<0>_", folder) for folder in folders), base])


def write_data_yaml(folder: Path, names: Sequence[str], **fields: str) -> None:
    """data.yaml without `path`, so that the folder can be moved. Names are JSON strings, which YAML reads as such."""
    entries = {
        "train": "images/train",
        "val": "images/train  # nothing was held out: to measure on other photos than you train on, name them here",
        **fields,
        "names": "",
    }
    text = [f"{key}: {value}".rstrip() for key, value in entries.items()]
    text += [f"  {index}: {json.dumps(name, ensure_ascii=False)}" for index, name in enumerate(names)]
    with atomic_write(folder / "data.yaml") as temporary:
        temporary.write_text("\n".join(text) + "\n", encoding="utf-8")
