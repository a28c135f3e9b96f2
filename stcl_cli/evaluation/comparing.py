"""One mask or CAM file against its true mask: what `stcl eval` adds up and `stcl report` shows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stcl_cli.errors import PhotoError, StclError
from stcl_cli.evaluation.cam_sweep import CamSweep
from stcl_cli.evaluation.metrics import confusion_matrix
from stcl_cli.formats.cams import CamFile
from stcl_cli.formats.classes import check_classes, classes_of
from stcl_cli.formats.masks import IGNORE, read_mask
from stcl_cli.strips import strips
from stcl_cli.wording import shown

ONLY_BACKGROUND = (
    "no true mask holds a class, so only background is measured; classes have the values 1 to 254, and 255 is ignored"
)


class TrueClasses(NamedTuple):
    """What the values of true masks are called, and are in the order of what is measured.

    Attributes:
        names: foreground classes of what is measured, then those that only the truth has.
        values: a true mask's value -> background 0, or its place in `names` counted from 1.
        predicted: how many of the names are classes of what is measured; a higher value there is no class.
    """

    names: tuple[str, ...]
    values: np.ndarray
    predicted: int

    @property
    def own(self) -> tuple[str, ...]:
        """What a true mask's values from 1 on are called."""
        return tuple(self.names[value - 1] for value in self.values[1:])

    @property
    def reordered(self) -> bool:
        return not np.array_equal(self.values, np.arange(len(self.values)))


def true_classes(classes: tuple[str, ...], folder: str | os.PathLike[str]) -> TrueClasses:
    """What true masks in `folder` hold: its classes.txt says so, or without one they have the values of `classes`.

    So truth with its classes in another order is compared by their names, and classes that nobody predicts count.
    """
    own = classes_of(Path(folder)) or classes
    names = check_classes([*classes, *(name for name in own if name not in classes)], shown(folder))
    return TrueClasses(names, np.array([0, *(names.index(name) + 1 for name in own)], np.uint8), len(classes))


def read_truth(path: Path, classes: TrueClasses) -> np.ndarray:
    """A true mask (H, W) uint8, in the values of `classes.names`.

    Raises:
        PhotoError: unreadable.
        StclError: it holds a value that is no class: the others will too.
    """
    mask, known = read_mask(path), len(classes.values) - 1
    highest = int(mask[mask != IGNORE].max(initial=0))
    if highest > known:
        raise StclError(
            f"{shown(path)}: holds class {highest}, but {known} are known; name them all in a classes.txt beside it"
        )
    return in_values_of(classes, mask)


def in_values_of(classes: TrueClasses, mask_HW: np.ndarray) -> np.ndarray:
    """A true mask's own values -> those of `classes.names`."""
    table = np.arange(256, dtype=np.uint8)
    table[: len(classes.values)] = classes.values
    return table[mask_HW] if classes.reordered else mask_HW


def compare_mask(
    path: Path,
    mask_HW: np.ndarray,
    truth_HW: np.ndarray,
    classes: int,
    predicted: int,
    ignore_predictions: bool = False,
) -> np.ndarray:
    """The confusion matrix (C + 1, C + 2) of the mask that was read from `path`, which knows the first `predicted` of
    the C classes. PhotoError if the sizes differ."""
    if mask_HW.shape != truth_HW.shape:
        raise PhotoError(
            f"{shown(path)}: is {_size(mask_HW)}, but the true mask is {_size(truth_HW)}; make it at the photo's size"
        )
    return sum(
        confusion_matrix(truth_HW[rows], mask_HW[rows], classes + 1, ignore_predictions, predicted + 1)
        for rows in strips(mask_HW.shape)
    )


def labels_among(names: Sequence[str], path: Path, cam: CamFile) -> list[int]:
    """Places in `names` of the labels of the CAMs read from `path`. StclError if a class has none: the others will too.

    A CAM file says what its classes are called; their order may be another one.
    """
    try:
        return [names.index(cam.classes[label]) for label in cam.labels]
    except ValueError:
        missing = next(cam.classes[label] for label in cam.labels if cam.classes[label] not in names)
        raise StclError(
            f"{shown(path)}: has a map of class '{shown(missing)}', which is not among the {len(names)} classes that "
            "are compared; add it to the file of classes, or leave that out"
        ) from None


def compare_cam(path: Path, cam: CamFile, truth_HW: np.ndarray, sweep: CamSweep, names: Sequence[str]) -> None:
    """Add the CAMs that were read from `path` to `sweep`, over the classes `names`.

    Raises:
        PhotoError: they are of a photo of another size.
        StclError: as `labels_among`.
    """
    labels = labels_among(names, path, cam)
    if truth_HW.shape != tuple(cam.size):
        raise PhotoError(f"{shown(path)}: is of another photo than the true mask ({_size(truth_HW)})")
    for rows in strips(truth_HW.shape):
        sweep.add(truth_HW[rows], cam.full_size(rows), labels)


def _size(mask_HW: np.ndarray) -> str:
    return f"{mask_HW.shape[1]} x {mask_HW.shape[0]}"
