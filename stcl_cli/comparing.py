"""One mask or CAM file against its true mask: what `stcl eval` adds up and `stcl report` shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stcl_cli.cam_sweep import CamSweep
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats.cams import CamFile
from stcl_cli.formats.files import shown
from stcl_cli.formats.masks import IGNORE, read_mask
from stcl_cli.metrics import confusion_matrix


def read_truth(path: Path, classes: int) -> np.ndarray:
    """A true mask (H, W) uint8.

    Raises:
        PhotoError: unreadable.
        StclError: it holds a class above `classes`, the number of foreground classes: the others will too.
    """
    mask = read_mask(path)
    highest = int(mask[mask != IGNORE].max(initial=0))
    if highest > classes:
        raise StclError(f"{shown(path)}: holds class {highest}, but {classes} are known; name them all with --classes")
    return mask


def compare_mask(path: Path, mask_HW: np.ndarray, truth_HW: np.ndarray, classes: int) -> np.ndarray:
    """The confusion matrix (C + 1, C + 2) of the mask that was read from `path`. PhotoError if the sizes differ."""
    if mask_HW.shape != truth_HW.shape:
        raise PhotoError(
            f"{shown(path)}: is {_size(mask_HW)}, but the true mask is {_size(truth_HW)}; make it at the photo's size"
        )
    return confusion_matrix(truth_HW, mask_HW, classes + 1)


def compare_cam(path: Path, cam: CamFile, truth_HW: np.ndarray, sweep: CamSweep) -> None:
    """Add the CAMs that were read from `path` to `sweep`. PhotoError if they are of a photo of another size."""
    if truth_HW.shape != tuple(cam.size):
        raise PhotoError(f"{shown(path)}: is of another photo than the true mask ({_size(truth_HW)})")
    sweep.add(truth_HW, cam.full_size(), cam.labels)


def _size(mask_HW: np.ndarray) -> str:
    return f"{mask_HW.shape[1]} x {mask_HW.shape[0]}"
