"""CVAT's "Segmentation mask 1.1" as one zip, to upload into a task (https://docs.cvat.ai, formats).

It goes with a task whose labels have the same names and whose frames are named like the masks. CVAT makes a shape of
each colour in SegmentationObject; here that is one a class, as masks of classes tell no objects apart. Ignored pixels
belong to no label: they are left to the annotator.
"""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile, ZipInfo

import numpy as np

from stcl_cli.export.voc import SETS, labelmap
from stcl_cli.export.writer import Item, Writer
from stcl_cli.formats.files import atomic_write
from stcl_cli.formats.masks import IGNORE, encode_mask


class CvatWriter(Writer):
    """Masks go into the zip one by one. It bears no dates: the same masks give the same file."""

    keeps_ignored = False

    def __init__(self, folder: Path, classes: tuple[str, ...]) -> None:
        super().__init__(folder, classes)
        self.file = folder / "cvat.zip"
        self.labelmap = labelmap(classes)

    def __enter__(self) -> CvatWriter:
        temporary = self.open_files.enter_context(atomic_write(self.file))
        self.zip = self.open_files.enter_context(ZipFile(temporary, "w"))
        return self

    def write(self, item: Item) -> None:
        png = encode_mask(np.where(item.mask_HW == IGNORE, np.uint8(0), item.mask_HW))
        for folder in ("SegmentationClass", "SegmentationObject"):
            self.zip.writestr(ZipInfo(f"{folder}/{item.name}.png"), png)

    def finish(self, names: list[str]) -> None:
        self.zip.writestr(ZipInfo("labelmap.txt"), self.labelmap)
        self.zip.writestr(ZipInfo(f"{SETS}/default.txt"), "".join(f"{name}\n" for name in names))
