"""CAMs against truth at every background score at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stcl_cli.formats.masks import IGNORE
from stcl_cli.metrics import mean_iou

STEPS = 100  # background scores 0.00, 0.01 ... 0.99


class CamSweep:
    """Counts pixels by (true class, strongest class, CAM value); a background score is then a sum over these counts."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts = np.zeros((classes + 1, classes + 1, STEPS), np.int64)

    def add(self, truth_HW: np.ndarray, maps_KHW: np.ndarray, labels: Sequence[int]) -> None:
        """Normalised maps of the classes `labels` (0 = first foreground class) at the truth's size."""
        sure = truth_HW != IGNORE
        truth = truth_HW[sure].astype(np.int64)
        if len(labels):
            slot = maps_KHW.argmax(0)
            winner = (np.asarray(labels, np.int64) + 1)[slot][sure]
            value = np.take_along_axis(maps_KHW, slot[None], 0)[0][sure]
        else:
            winner, value = np.ones_like(truth), np.zeros(len(truth))
        step = np.clip((value * STEPS).astype(np.int64), 0, STEPS - 1)
        flat = (truth * (self.classes + 1) + winner) * STEPS + step
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)

    def confusion(self, step: int) -> np.ndarray:
        """Confusion matrix (classes + 1, classes + 2) at background score step / 100: a CAM has to reach it."""
        matrix = np.zeros((self.classes + 1, self.classes + 2), np.int64)
        # A value in bin `step` lies in [step, step + 1) / 100: it counts as foreground.
        matrix[:, :-1] = self.counts[:, :, step:].sum(2)
        matrix[:, 0] += self.counts[:, :, :step].sum((1, 2))
        return matrix

    def best(self) -> tuple[float, float]:
        """(highest mIoU, the background score that gives it); NaN without a single pixel of truth."""
        scores = [mean_iou(self.confusion(step)) for step in range(1, STEPS)]
        step = int(np.argmax(scores))
        return float(scores[step]), (step + 1) / STEPS
