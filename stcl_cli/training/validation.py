"""Measuring in training: CAMs or segmentation against true masks, which only measure and never train."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stcl_cli.cams import best_labels
from stcl_cli.config import RefineConfig, SegtrainConfig, TrainConfig, Training
from stcl_cli.data.labels import Labels, match_labels
from stcl_cli.data.outputs import match_outputs, no_mask
from stcl_cli.data.photo_masks import read_photo_mask, sample_masks
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.data.pixels import read_photo
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.evaluation.cam_sweep import CamSweep
from stcl_cli.evaluation.comparing import TrueClasses, in_values_of, true_classes
from stcl_cli.evaluation.metrics import confusion_matrix, mean_iou
from stcl_cli.inference import label_maps, photo_cams, photo_scores
from stcl_cli.runtime.device import Runtime
from stcl_cli.runtime.distributed import rank, ranks, sum_over_ranks
from stcl_cli.runtime.out_of_memory import if_it_fits, too_large
from stcl_cli.wording import shown
from stcl_models.stcl import Stcl, resize

(USUAL,) = RefineConfig.background

Tell = Callable[[str], None]  # what goes on, for people
Validation = Callable[[Tell], dict[str, Any]]


def cam_validation(
    model: Stcl,
    config: TrainConfig,
    runtime: Runtime,
    classes: tuple[str, ...],
    table: Labels,
) -> Validation | None:
    """mIoU of the CAMs, labels given, at refine's usual background score and at the best; None without --val-masks.

    `table` holds the labels, also of photos that are not trained on.
    """
    if not _measures(config):
        return None
    masks, missing = _photos_with_masks(config)
    labels = {photo.name: shows for photo, shows in match_labels(list(masks), table).labelled}
    if config.val_list is not None:
        missing += [(photo.name, f"no label in {config.labels}") for photo in masks if photo.name not in labels]
    masks = {photo: path for photo, path in masks.items() if photo.name in labels}
    if not masks:
        raise StclError(
            f"{config.labels}: has labels of none of the photos to measure on, those with a mask in {config.val_masks}"
        )
    true = _true_classes(classes, masks, config)

    def maps_of(photo: Photo, pixels: np.ndarray) -> np.ndarray:
        cams = photo_cams(model, runtime, [pixels], config.cam_scales)
        (maps,) = label_maps(cams, [labels[photo.name]], model.memory, config.guidance)
        return resize(maps[:, None], pixels.shape[:2])[:, 0].cpu().numpy()

    def measure(tell: Tell) -> dict[str, Any]:
        model.eval()
        sweep = CamSweep(len(true.names))

        def add(photo: Photo, truth: np.ndarray, maps: np.ndarray) -> None:
            sweep.add(truth, maps, list(labels[photo.name]))

        skipped = _measure(masks, config, true, tell, maps_of, add)
        sweep.counts = sum_over_ranks(torch.from_numpy(sweep.counts)).numpy()
        # What goes on uses one score, as a rule: a network that is best at another one is not the best for it.
        miou, best, score = (sweep.at(USUAL), *sweep.best()) if sweep.counts[1:].any() else (math.nan,) * 3
        return {"miou": miou, "best_miou": best, "background": score, "skipped": missing + skipped}

    return measure


def segmentation_validation(
    model: torch.nn.Module, config: SegtrainConfig, runtime: Runtime, classes: tuple[str, ...]
) -> Validation | None:
    """mIoU of the model's own predictions, one scale, no mirror image; None without --val-masks."""
    if not _measures(config):
        return None
    masks, missing = _photos_with_masks(config)
    true = _true_classes(classes, masks, config)
    count = len(true.names)

    def labels_of(photo: Photo, pixels: np.ndarray) -> np.ndarray:
        (scores,) = photo_scores(model, runtime, [pixels], (1.0,), flip=False)
        return best_labels(scores).cpu().numpy()

    def measure(tell: Tell) -> dict[str, Any]:
        model.eval()
        total = np.zeros((count + 1, count + 2), np.int64)

        def add(photo: Photo, truth: np.ndarray, predicted: np.ndarray) -> None:
            np.add(total, confusion_matrix(truth, predicted, count + 1), out=total)

        skipped = _measure(masks, config, true, tell, labels_of, add)
        matrix = sum_over_ranks(torch.from_numpy(total)).numpy()
        miou = mean_iou(matrix) if matrix[1:].any() else math.nan
        return {"miou": miou, "skipped": missing + skipped}

    return measure


def _measures(config: Training) -> bool:
    """Whether there are true masks. StclError if there is a list of photos to measure on without."""
    if config.val_masks is None and config.val_list is not None:
        raise StclError(f"--val-list {shown(config.val_list)}: give the true masks too, with --val-masks")
    return config.val_masks is not None


def _photos_with_masks(config: Training) -> tuple[dict[Photo, Path], list[tuple[str, str]]]:
    """The photos to measure on, each with its true mask; (name, reason) of those listed that have none."""
    photos, missing = list_photos(config.images, config.val_list)
    masks = match_outputs(config.val_masks, ".png", photos).by_photo
    if not masks:
        raise no_mask(config.val_masks, config.val_list or config.images)
    if config.val_list is None:  # then all that have one
        missing = []
    else:
        without = (photo.name for photo in photos if photo.name not in masks)
        missing = missing + [(name, f"no mask in {config.val_masks}") for name in without]
    return {photo: masks[photo.name] for photo in photos if photo.name in masks}, missing


def _true_classes(classes: tuple[str, ...], masks: Mapping[Photo, Path], config: Training) -> TrueClasses:
    """StclError if no true mask can be used or holds a class: background alone would call the first checkpoint best."""
    true = true_classes(classes, config.val_masks)
    looked_at = sample_masks(list(masks), {photo.name: path for photo, path in masks.items()}, true.own)
    if looked_at.blank:
        raise StclError(
            f"{shown(config.val_masks)}: no class in its masks; classes have the values 1 to 254, and 255 is ignored"
        )
    return true


def _measure(
    masks: Mapping[Photo, Path],
    config: Training,
    classes: TrueClasses,
    tell: Tell,
    compute: Callable[[Photo, np.ndarray], np.ndarray],
    add: Callable[[Photo, np.ndarray, np.ndarray], None],
) -> list[tuple[str, str]]:
    """add(photo, true mask, compute(photo, pixels)) for this rank's photos; (name, reason) of those left out."""
    mine, skipped = list(masks.items())[rank() :: ranks()], []
    for number, (photo, path) in enumerate(mine, 1):
        tell(f"measuring {number}/{len(mine)}")
        try:
            pixels = read_photo(photo.path, config.max_side)
            mask = read_photo_mask(path, photo, pixels.shape[:2], len(classes.values) - 1)
            found = if_it_fits(partial(compute, photo, pixels))
            if found is None:
                raise too_large(photo.path)
        except PhotoError as error:
            skipped.append((photo.name, str(error)))
        else:
            add(photo, in_values_of(classes, mask), found)
    return skipped
