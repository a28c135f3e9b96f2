from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
from PIL import Image

from stcl_cli.config import ExportConfig
from stcl_cli.formats.classes import write_classes
from stcl_cli.formats.masks import IGNORE, write_mask
from stcl_cli.stages import export

CLASSES = ("cat", "Bär & Söhne", "'x' #1")
PHOTOS = ("a.jpg", "sub dir/bär 01.jpg", "sub dir/deep/x.v1.png", "images/y.jpg", "void.jpg")


def blobs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A mask with regions that touch, have holes and islands, and single pixels."""
    scores = [cv2.GaussianBlur(rng.random((height, width)).astype(np.float32), (0, 0), 3) for _ in range(5)]
    mask_HW = np.argmax(scores, 0).astype(np.uint8)
    mask_HW[mask_HW == 4] = IGNORE
    mask_HW[rng.random((height, width)) < 0.01] = 1
    return mask_HW


class Masks(NamedTuple):
    """Masks and photos on disk: `by_name` is what any export has to give back."""

    folder: Path
    photos: Path
    by_name: dict[str, np.ndarray]
    export: Callable[..., Path]

    def without_ignored(self) -> dict[str, np.ndarray]:
        return {name: np.where(mask == IGNORE, 0, mask) for name, mask in self.by_name.items()}


@pytest.fixture
def masks(tmp_path) -> Masks:
    rng = np.random.default_rng(0)
    folder, photos, by_name = tmp_path / "masks", tmp_path / "photos", {}
    for file in PHOTOS:
        name = file.rsplit(".", 1)[0]
        height, width = rng.integers(40, 70, 2)
        by_name[name] = blobs(rng, height, width) if name != "void" else np.zeros((height, width), np.uint8)
        write_mask(folder / f"{name}.png", by_name[name])
        (photos / file).parent.mkdir(parents=True, exist_ok=True)
        photo = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        if name == "a":  # lies on its side
            exif = Image.Exif()
            exif[0x0112] = 6
            photo.transpose(Image.Transpose.ROTATE_90).save(photos / file, exif=exif)
        else:
            photo.save(photos / file)
    write_classes(folder / "classes.txt", CLASSES)

    def run(to: str, output: Path = tmp_path / "out", **settings: Any) -> Path:
        settings = {"images": str(photos)} | settings
        result = export.run(ExportConfig(masks=str(folder), to=to, output=str(output), **settings))
        assert result.skipped == 0
        return output

    return Masks(folder, photos, by_name, run)


def assert_same(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert got.keys() == wanted.keys()
    for name, mask in wanted.items():
        assert np.array_equal(got[name], mask), name


@pytest.fixture
def same():
    return assert_same
