"""NumPy: NAME.npy with the class indices, uint8 (H, W), 255 ignored. No pickle: np.load's defaults read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stcl_cli.export.writer import Item, Writer
from stcl_cli.formats.files import atomic_write, output_path


class NpyWriter(Writer):
    """One array a photo."""

    def target(self, name: str) -> Path:
        return output_path(self.folder, name, ".npy")

    def write(self, item: Item) -> None:
        with atomic_write(self.target(item.name)) as temporary, open(temporary, "wb") as file:
            np.save(file, item.mask_HW, allow_pickle=False)
