"""Mean intersection over union, as PASCAL VOC counts it."""

from __future__ import annotations

import numpy as np

from stcl_cli.formats.masks import IGNORE


def confusion_matrix(
    truth_HW: np.ndarray,
    pred_HW: np.ndarray,
    classes_total: int,
    ignore_predictions: bool = False,
    predicted_total: int | None = None,
) -> np.ndarray:
    """Count pixels by true class (row) and predicted class (column); matrices of several photos add up.

    Args:
        truth_HW: class indices below `classes_total`, background included; pixels of 255 are left out.
        pred_HW: class indices; 255, and any other value that is no class, counts in the last column.
        classes_total: C, background included.
        ignore_predictions: leave out pixels predicted as 255, instead of counting them as errors.
        predicted_total: classes that predictions know, the first ones; by default all.

    Returns:
        (C, C + 1) int64; the last column counts predictions that are no class.

    Raises:
        ValueError: the shapes differ, or a true value is no class.
    """
    if truth_HW.shape != pred_HW.shape:
        raise ValueError(f"truth {truth_HW.shape} and prediction {pred_HW.shape} differ in shape")
    counted = truth_HW != IGNORE
    if ignore_predictions:
        counted &= pred_HW != IGNORE
    truth, pred = truth_HW[counted].astype(np.int64), pred_HW[counted].astype(np.int64)
    if truth.size and not 0 <= truth.min() <= truth.max() < classes_total:
        raise ValueError(f"the truth holds {truth.max()}, but there are {classes_total} classes with background")
    columns = classes_total + 1
    pred[(pred < 0) | (pred >= (predicted_total or classes_total))] = classes_total
    return np.bincount(truth * columns + pred, minlength=classes_total * columns).reshape(classes_total, columns)


def iou_per_class(matrix: np.ndarray) -> np.ndarray:
    """IoU (C) of a `confusion_matrix`: true positives / (true + false positives + false negatives).

    NaN for classes that the truth does not hold. Predictions that are no class are false negatives.
    """
    square = matrix[:, :-1]
    hits, truth = np.diagonal(square), matrix.sum(1)
    union = truth + square.sum(0) - hits
    return np.where(truth > 0, hits / np.maximum(union, 1), np.nan)


def mean_iou(matrix: np.ndarray) -> float:
    """Mean of `iou_per_class` over the classes in the truth, background included; NaN if it holds none."""
    ious = iou_per_class(matrix)
    present = ious[~np.isnan(ious)]
    return float(present.mean()) if present.size else float("nan")
