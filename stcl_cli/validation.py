"""Measuring in training: CAMs or segmentation against true masks, which only measure and never train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stcl_cli.cam_sweep import CamSweep
from stcl_cli.comparing import TrueClasses, in_values_of, true_classes
from stcl_cli.config import SegtrainConfig, TrainConfig, Training
from stcl_cli.data.labels import Labels, match_labels
from stcl_cli.data.outputs import match_outputs
from stcl_cli.data.photo_masks import read_photo_mask
from stcl_cli.data.photos import Photo, list_photos, read_photo
from stcl_cli.distributed import rank, ranks, sum_over_ranks
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats.files import shown
from stcl_cli.inference import best_labels, label_maps, photo_cams, photo_scores
from stcl_cli.metrics import confusion_matrix, mean_iou
from stcl_cli.runtime import Runtime
from stcl_cli.within_memory import if_it_fits, too_large
from stcl_models.stcl import Stcl, resize

Tell = Callable[[str], None]  # what goes on, for people
Validation = Callable[[Tell], dict[str, Any]]


def cam_validation(
    model: Stcl,
    config: TrainConfig,
    runtime: Runtime,
    classes: tuple[str, ...],
    table: Labels,
) -> Validation | None:
    """mIoU of the CAMs, labels given, at the background score that is best for it; None without --val-masks.

    `table` holds the labels, also of photos that are not trained on.
    """
    masks = _photos_with_masks(config)
    if masks is None:
        return None
    labels = {photo.name: shows for photo, shows in match_labels(list(masks), table).labelled}
    masks = {photo: path for photo, path in masks.items() if photo.name in labels}
    if not masks:
        raise StclError(
            f"{config.labels}: has labels of none of the photos to measure on, those with a mask in {config.val_masks}"
        )
    true = true_classes(classes, config.val_masks)

    def measure(tell: Tell) -> dict[str, Any]:
        model.eval()
        sweep, skipped = CamSweep(len(true.names)), []
        for photo, pixels, truth in _with_truth(masks, config, true, skipped, tell):
            shown = list(labels[photo.name])
            found = if_it_fits(partial(photo_cams, model, runtime, [pixels], config.cam_scales))
            if found is None:
                skipped.append((photo.name, str(too_large(photo.path))))
                continue
            (cams,) = found
            (maps,) = label_maps([cams], [shown], model.memory, config.guidance)
            maps = resize(maps[:, None], pixels.shape[:2])[:, 0].cpu().numpy()
            sweep.add(truth, maps, shown)
        sweep.counts = sum_over_ranks(torch.from_numpy(sweep.counts)).numpy()
        miou, threshold = sweep.best()
        return {"miou": miou, "background": threshold, "skipped": skipped}

    return measure


def segmentation_validation(
    model: torch.nn.Module, config: SegtrainConfig, runtime: Runtime, classes: tuple[str, ...]
) -> Validation | None:
    """mIoU of the model's own predictions, one scale, no mirror image; None without --val-masks."""
    masks = _photos_with_masks(config)
    if masks is None:
        return None
    true = true_classes(classes, config.val_masks)
    count = len(true.names)

    def measure(tell: Tell) -> dict[str, Any]:
        model.eval()
        total, skipped = np.zeros((count + 1, count + 2), np.int64), []
        for photo, pixels, truth in _with_truth(masks, config, true, skipped, tell):
            found = if_it_fits(partial(photo_scores, model, runtime, [pixels], (1.0,), flip=False))
            if found is None:
                skipped.append((photo.name, str(too_large(photo.path))))
                continue
            (scores,) = found
            predicted = best_labels(scores).cpu().numpy()
            total += confusion_matrix(truth, predicted, count + 1)
        return {"miou": mean_iou(sum_over_ranks(torch.from_numpy(total)).numpy()), "skipped": skipped}

    return measure


def _photos_with_masks(config: Training) -> dict[Photo, Path] | None:
    """The photos to measure on, each with its true mask."""
    if config.val_masks is None:
        if config.val_list is not None:
            raise StclError(f"--val-list {shown(config.val_list)}: give the true masks too, with --val-masks")
        return None
    photos, _ = list_photos(config.images, config.val_list)
    paths = match_outputs(config.val_masks, ".png", photos).by_photo
    if not paths:
        raise StclError(
            f"{config.val_masks}: holds no mask for any of the photos to measure on; a mask is named like its photo, "
            "in a folder of masks alone"
        )
    return {photo: paths[photo.name] for photo in photos if photo.name in paths}


def _with_truth(
    masks: Mapping[Photo, Path], config: Training, classes: TrueClasses, skipped: list[tuple[str, str]], tell: Tell
) -> Iterator[tuple[Photo, np.ndarray, np.ndarray]]:
    """This rank's photos with pixels and true mask; (name, reason) of those that cannot be used joins `skipped`."""
    mine = list(masks.items())[rank() :: ranks()]
    for number, (photo, path) in enumerate(mine, 1):
        tell(f"measuring {number}/{len(mine)}")
        try:
            pixels = read_photo(photo.path, config.max_side)
            mask = read_photo_mask(path, photo, pixels.shape[:2], len(classes.values) - 1)
        except PhotoError as error:
            skipped.append((photo.name, str(error)))
        else:
            yield photo, pixels, in_values_of(classes, mask)
