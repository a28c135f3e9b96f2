"""CAMs against truth at every background score at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stcl_cli.formats.masks import IGNORE

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

    def curve(self) -> np.ndarray:
        """mIoU (STEPS) at each background score step / 100, as of `confusion`; NaN without a single pixel of truth."""
        found = _at_least(self.counts.sum(1))  # foreground at each step, of each true class: (classes + 1, STEPS)
        predicted = _at_least(self.counts.sum(0))
        hits = _at_least(np.einsum("iis->is", self.counts))
        truth = found[:, :1]
        below = truth - found  # background
        hits[0] += below[0]
        predicted[0] += below.sum(0)
        ious = (hits / np.maximum(truth + predicted - hits, 1))[truth[:, 0] > 0]
        return ious.mean(0) if len(ious) else np.full(STEPS, np.nan)

    def at(self, score: float) -> float:
        """mIoU at a background score."""
        return float(self.curve()[round(score * STEPS)])

    def best(self) -> tuple[float, float]:
        """(highest mIoU, the background score that gives it); NaN without a single pixel of truth."""
        scores = self.curve()[1:]
        step = int(np.argmax(scores))
        return float(scores[step]), (step + 1) / STEPS


def _at_least(counts_CS: np.ndarray) -> np.ndarray:
    """Pixels whose value reaches each step."""
    return counts_CS[:, ::-1].cumsum(1)[:, ::-1]
