"""A column of the report: the CAM files or masks of one folder, counted, compared with the truth, and drawn."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from stcl_cli.config import TrainConfig
from stcl_cli.data.photo_masks import MaskTally, count_values
from stcl_cli.data.photos import Photo
from stcl_cli.evaluation.cam_sweep import STEPS, CamSweep
from stcl_cli.evaluation.comparing import compare_cam, compare_mask, labels_among
from stcl_cli.evaluation.metrics import iou_per_class, mean_iou
from stcl_cli.formats.cams import CamFile, read_cam
from stcl_cli.formats.images import encode_jpeg, encode_png
from stcl_cli.formats.masks import IGNORE, read_mask
from stcl_cli.pictures import heat, overlay, shown_palette
from stcl_cli.wording import shown

MAPS = 3  # CAMs of a photo that are shown; a photo with more labels has its first ones
QUALITY = 82  # of JPEGs in the page


class Picture(NamedTuple):
    """A picture as a data URI, with what stands under it."""

    caption: str
    uri: str


class Drawn(NamedTuple):
    """A photo's pictures, a line on it, and the share of each value in its mask."""

    pictures: list[Picture]
    fact: str
    shares: dict[int, float]


class Column(ABC):
    """What all photos of one folder come to, and each photo's figures by its name.

    Attributes:
        doubt: share of the photo's pixels that the folder is not sure of.
        shows: photos that show each class (C).
        pixels: each class's share of all pixels (C); None for CAMs.
        predicted: photos whose labels the classifier chose.
        sweep: CAMs at every background score, where any were compared.
    """

    shows: np.ndarray
    pixels: np.ndarray | None = None
    predicted: int = 0
    sweep: CamSweep | None = None

    def __init__(self, title: str, classes: tuple[str, ...], files: Mapping[str, Path]) -> None:
        self.title, self.classes, self.files = title, classes, files
        self.doubt: dict[str, float] = {}
        self.seen: set[str] = set()

    @abstractmethod
    def add(self, name: str, truth_HW: np.ndarray | None) -> None:
        """Read the file of a photo, count it, compare it. PhotoError if it cannot be used."""

    @abstractmethod
    def draw(self, photo: Photo, pixels_HW3: np.ndarray) -> Drawn:
        """A photo of this folder at the size of `pixels_HW3`. PhotoError as above."""

    @abstractmethod
    def confusion(self) -> np.ndarray | None:
        """Against the truth, of all photos (C + 1, C + 2); None where none was compared."""

    @abstractmethod
    def ious(self) -> dict[str, float]:
        """mIoU of each photo that was compared, over the classes in its truth."""

    def _fact(self, photo: Photo, *more: str) -> str:
        iou = self.ious().get(photo.name)
        parts = ([] if iou is None else [f"IoU {iou:.2f}"]) + [part for part in more if part]
        return f"{self.title}: {', '.join(parts)}" if parts else ""

    def iou_per_class(self) -> np.ndarray | None:
        matrix = self.confusion()
        return None if matrix is None else iou_per_class(matrix)

    def miou(self) -> float | None:
        matrix = self.confusion()
        return None if matrix is None or not matrix.any() else mean_iou(matrix)


class MaskColumn(Column):
    """Masks. In doubt are the pixels of 255. `read` gives a mask in the values of `classes`."""

    def __init__(
        self,
        title: str,
        classes: tuple[str, ...],
        files: Mapping[str, Path],
        read: Callable[[Path], np.ndarray] = read_mask,
        own: int | None = None,
    ) -> None:
        """`own`: how many of the classes, the first ones, these masks know; by default all."""
        super().__init__(title, classes, files)
        self.read, self.own = read, len(classes) if own is None else own
        self.tally = MaskTally(classes)
        self._matrix: np.ndarray | None = None
        self._ious: dict[str, float] = {}

    def add(self, name: str, truth_HW: np.ndarray | None) -> None:
        path = self.files[name]
        mask_HW = self.read(path)
        if truth_HW is not None:
            matrix = compare_mask(path, mask_HW, truth_HW, len(self.classes), self.own)
            self._ious[name] = mean_iou(matrix)
            self._matrix = matrix if self._matrix is None else self._matrix + matrix
        self.count(name, mask_HW)

    def count(self, name: str, mask_HW: np.ndarray) -> None:
        """Add a mask that is compared with nothing, such as a true one."""
        values = count_values(mask_HW)
        self.tally.add(name, values)
        self.doubt[name] = values[IGNORE] / mask_HW.size
        self.seen.add(name)

    @property
    def shows(self) -> np.ndarray:
        return self.tally.holding[1 : len(self.classes) + 1]

    @property
    def pixels(self) -> np.ndarray:
        return self.tally.pixels[1 : len(self.classes) + 1] / max(self.tally.pixels.sum(), 1)

    def draw(self, photo: Photo, pixels_HW3: np.ndarray) -> Drawn:
        mask_HW = self.read(self.files[photo.name])
        values = count_values(mask_HW)
        shares = {int(value): values[value] / mask_HW.size for value in np.flatnonzero(values)}
        mask_HW = cv2.resize(mask_HW, pixels_HW3.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        pictures = [
            Picture(self.title, data_uri(encode_png(shown_palette()[mask_HW]), "png")),
            Picture(f"{self.title} on the photo", jpeg_uri(overlay(pixels_HW3, mask_HW))),
        ]
        ignored = f"{shares[IGNORE] * 100:.0f}\u00a0% ignored" if IGNORE in shares else ""
        return Drawn(pictures, self._fact(photo, ignored), shares)

    def confusion(self) -> np.ndarray | None:
        return self._matrix

    def ious(self) -> dict[str, float]:
        return self._ious


class CamColumn(Column):
    """CAM files. In doubt are the pixels whose strongest class lies between training's two thresholds."""

    def __init__(self, title: str, classes: tuple[str, ...], files: Mapping[str, Path]) -> None:
        super().__init__(title, classes, files)
        self.shows = np.zeros(len(classes), np.int64)
        self._curves: dict[str, np.ndarray] = {}  # a photo's mIoU at each background score
        self._step: int | None = None  # the best of them over all photos, once it was asked for

    def add(self, name: str, truth_HW: np.ndarray | None) -> None:
        path = self.files[name]
        cam = _read(path)
        if truth_HW is not None:
            alone = CamSweep(len(self.classes))
            compare_cam(path, cam, truth_HW, alone, self.classes)
            self._curves[name] = alone.curve()
            self.sweep = self.sweep or CamSweep(len(self.classes))
            self.sweep.counts += alone.counts
            self._step = None
        self.shows[labels_among(self.classes, path, cam)] += 1
        self.predicted += cam.source == "predicted"
        strongest = cam.cam_KHW.max(0, initial=0)
        unsure = (strongest > TrainConfig.beta_low) & (strongest < TrainConfig.beta_high)
        self.doubt[name] = float(unsure.mean())
        self.seen.add(name)

    def draw(self, photo: Photo, pixels_HW3: np.ndarray) -> Drawn:
        cam = _read(self.files[photo.name])
        pictures = [
            Picture(f"{self.title}: {cam.classes[label]}{_probability(cam, index)}", jpeg_uri(heat(pixels_HW3, map_HW)))
            for index, (label, map_HW) in enumerate(zip(cam.labels[:MAPS], cam.cam_KHW, strict=False))
        ]
        labels = ", ".join(cam.classes[label] for label in cam.labels) or "none"
        unsure = f"{self.doubt[photo.name] * 100:.0f}\u00a0% unsure"
        return Drawn(pictures, self._fact(photo, unsure, f"labels {cam.source}: {labels}"), {})

    def confusion(self) -> np.ndarray | None:
        return self.sweep.confusion(self._best_step(self.sweep)) if self.sweep else None

    def ious(self) -> dict[str, float]:
        if not self.sweep:
            return {}
        step = self._best_step(self.sweep)
        return {name: float(curve[step]) for name, curve in self._curves.items()}

    def _best_step(self, sweep: CamSweep) -> int:
        if self._step is None:
            self._step = round(sweep.best()[1] * STEPS)
        return self._step


def _read(path: Path) -> CamFile:
    """A CAM file whose classes are called as a page calls them."""
    cam = read_cam(path)
    return replace(cam, classes=tuple(map(shown, cam.classes)))


def _probability(cam: CamFile, index: int) -> str:
    if not cam.scores:
        return ""
    score = cam.scores[index] if len(cam.scores) == len(cam.labels) else cam.scores[cam.labels[index]]
    return f" ({score * 100:.0f}\u00a0%)"


def data_uri(data: bytes, kind: str) -> str:
    """An image file as a data URI; `kind` is png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def jpeg_uri(rgb_HW3: np.ndarray) -> str:
    return data_uri(encode_jpeg(rgb_HW3, QUALITY), "jpeg")
