"""What all exports share: an item, and the life of a writer."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stcl_cli.data.photos import Photo


@dataclass(frozen=True)
class Item:
    """A mask to export: uint8 class indices (H, W), called `name`, and its photo where photos were given."""

    name: str
    mask_HW: np.ndarray
    photo: Photo | None = None


class Writer:
    """An export into `folder`: entered, given one item after the other, and finished with the names of all of them.

    Attributes:
        keeps_ignored: whether the format can say that a pixel is ignored (255); else such pixels are left out of it.
        file: the one file that holds all items, or None where each item has its own.
    """

    keeps_ignored: ClassVar[bool] = True
    file: Path | None = None

    def __init__(self, folder: Path, classes: tuple[str, ...]) -> None:
        self.folder, self.classes = folder, classes
        self.open_files = ExitStack()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: Any) -> None:
        self.open_files.__exit__(*error)

    def target(self, name: str) -> Path:
        """The last file written for an item: where it exists, the item is done."""
        raise NotImplementedError

    def write(self, item: Item) -> None:
        """Write what belongs to one item. PhotoError if this one cannot be had."""
        raise NotImplementedError

    def finish(self, names: list[str]) -> None:
        """Write what belongs to all items, among them those of an earlier run; nothing unless there is such a thing."""
