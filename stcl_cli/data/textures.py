"""The photos that `stcl bench` measures on: random texture, with a label, a mask and a CAM for each."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from stcl_cli.formats.cams import CamFile, write_cam
from stcl_cli.formats.classes import write_classes
from stcl_cli.formats.files import output_path
from stcl_cli.formats.images import write_jpeg
from stcl_cli.formats.masks import write_mask

PICTURES = 16  # different ones; all others are links to them


def write_textures(folder: Path, count: int, side: int, classes: tuple[str, ...]) -> None:
    """photos/NAME.jpg, masks/NAME.png and cams/NAME.safetensors, each with classes.txt, and labels.csv.

    Photos of `side` pixels a side, with coarse texture that a mask can follow and fine one as a camera's noise, so that
    reading them takes what reading a photo takes.
    """
    rng = np.random.default_rng(0)
    lines = ["image,labels"]
    for number in range(count):
        label = number % PICTURES % len(classes)
        places = (("photos", ".jpg"), ("masks", ".png"), ("cams", ".safetensors"))
        files = [output_path(folder / place, f"{number:05}", suffix) for place, suffix in places]
        if number < PICTURES:
            coarse_HW3, map_HW = _texture(rng, side, 3), _texture(rng, side, 1)[..., 0]
            photo_HW3 = coarse_HW3 * 255 + rng.integers(-8, 9, coarse_HW3.shape)
            write_jpeg(files[0], photo_HW3.clip(0, 255).astype(np.uint8))
            write_mask(files[1], np.where(map_HW > 0.5, label + 1, 0).astype(np.uint8))
            write_cam(files[2], CamFile(classes, (label,), map_HW[None], (side, side)))
        else:
            for (place, suffix), file in zip(places, files, strict=True):
                os.link(output_path(folder / place, f"{number % PICTURES:05}", suffix), file)
        lines.append(f"{number:05},{classes[label]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    for place in ("masks", "cams"):
        write_classes(folder / place / "classes.txt", classes)


def _texture(rng: np.random.Generator, side: int, channels: int) -> np.ndarray:
    """(side, side, channels) in 0..1."""
    small = rng.random((8, 8, channels), np.float32)
    large = cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC).reshape(side, side, channels)
    return large.clip(0, 1)
