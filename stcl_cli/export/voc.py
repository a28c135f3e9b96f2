"""PASCAL VOC 2012's folders: SegmentationClass, ImageSets/Segmentation/train.txt, and JPEGImages with --images.

labelmap.txt, which VOC itself lacks, tells CVAT's and Datumaro's readers the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stcl_cli.errors import StclError
from stcl_cli.export.photos import place_photo
from stcl_cli.export.writer import Item, Writer
from stcl_cli.formats.classes import BACKGROUND
from stcl_cli.formats.files import atomic_write, output_path
from stcl_cli.formats.masks import IGNORE, voc_palette, write_mask

SETS = "ImageSets/Segmentation"


class VocWriter(Writer):
    """Palette PNGs, 255 ignored: as masks are here."""

    def __init__(self, folder: Path, classes: tuple[str, ...]) -> None:
        super().__init__(folder, classes)
        self.labelmap = labelmap(classes, ignored=True)

    def target(self, name: str) -> Path:
        return output_path(self.folder / "SegmentationClass", name, ".png")

    def write(self, item: Item) -> None:
        place_photo(item, self.folder / "JPEGImages", item.name, only_jpeg=True)
        write_mask(self.target(item.name), item.mask_HW)

    def finish(self, names: list[str]) -> None:
        for file, text in (("labelmap.txt", self.labelmap), (f"{SETS}/train.txt", "".join(f"{n}\n" for n in names))):
            with atomic_write(self.folder / file) as temporary:
                temporary.write_text(text, encoding="utf-8")


def labelmap(classes: Sequence[str], ignored: bool = False) -> str:
    """Text of labelmap.txt: `name:r,g,b::` a line, in the masks' colours; background first, 255 last if `ignored`.

    Raises:
        StclError: a class name that the format cannot hold.
    """
    values = dict(enumerate((BACKGROUND, *classes)))
    if ignored:
        values[IGNORE] = "ignored"  # VOC's own name for it, in Datumaro
    for name in classes:
        if ":" in name or name.startswith("#") or list(values.values()).count(name) > 1:
            raise StclError(f"class '{name}': labelmap.txt cannot hold this name; give another with --classes FILE")
    colours = voc_palette().tolist()
    lines = [f"{name}:{','.join(map(str, colours[value]))}::\n" for value, name in values.items()]
    return "".join(["# label:color_rgb:parts:actions\n", *lines])
