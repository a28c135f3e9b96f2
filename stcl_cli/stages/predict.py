"""`stcl predict`: photos and a segmentation model -> one mask a photo."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from stcl_cli.cams import best_labels
from stcl_cli.config import PredictConfig
from stcl_cli.console import meter, warn
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.data.pixels import photo_size, read_photo
from stcl_cli.errors import PhotoError
from stcl_cli.formats.masks import read_mask
from stcl_cli.inference import network_size, photo_scores
from stcl_cli.networks import compile_blocks, load_segmenter
from stcl_cli.runtime.device import fetch, make_runtime
from stcl_cli.runtime.out_of_memory import Network
from stcl_cli.runtime.pipeline import Pipeline
from stcl_cli.stages.output import Done, MaskFolder, Outcomes, Result, finish, nobody, skip
from stcl_cli.strips import argmax_at_size


def run(config: PredictConfig, done: Done = nobody) -> Result:
    """Predict. Raises StclError."""
    runtime = make_runtime(config.device, config.amp)
    model, info, trained = load_segmenter(Path(config.model))
    if config.compile:
        compile_blocks(model, runtime.device)
    photos, missing = list_photos(config.images, config.list)
    folder = MaskFolder(config, "predict", info.classes)
    mine = folder.failures.shard.mine
    photos = [photo for photo in photos if mine(photo.name)]
    missing = [(name, reason) for name, reason in missing if mine(name)]
    skip(folder.failures, missing)
    network = Network(model, runtime)
    todo = [photo for photo in photos if not folder.has(photo.name)]

    def read(photo: Photo) -> np.ndarray | None:
        if os.path.isfile(folder.mask_path(photo.name)):
            return None  # what lacks is its overlay
        return read_photo(photo.path, trained.max_side)

    def find(*arguments: Any) -> list[Callable[[], np.ndarray]]:
        found = photo_scores(*arguments, scales=config.scales, flip=config.flip)
        return [fetch(_smallest(scores, trained.max_side)) for scores in found]

    def compute(photos: list[Photo], pixels: list[np.ndarray]) -> list[Callable[[], np.ndarray] | PhotoError]:
        return network.compute(find, pixels, [photo.path for photo in photos])

    def write(photo: Photo, found: Callable[[], np.ndarray] | None) -> dict[str, Any]:
        if found is None:
            mask = read_mask(folder.mask_path(photo.name))
        else:
            mask = found()
            if mask.ndim == 3:
                mask = argmax_at_size(mask, photo_size(photo.path))
        return folder.write(photo, mask)

    size = partial(network_size, multiple=model.multiple)
    work = Pipeline(read, compute, write, size, trained.max_side)
    outcomes = Outcomes(folder.failures, done)
    with meter("predict", len(photos), len(photos) - len(todo)) as gauge:
        for photo, outcome in work.run(todo, runtime.device, config.workers):
            outcomes.add(photo, outcome)
            gauge.advance()
    if outcomes.made and outcomes.made == outcomes.without_class:
        warn("no mask shows a class: look at the masks it was trained on, or train longer")
    then = ("export", folder.path, "--images", config.images, "--to", "coco", "-o", "OUT")
    return finish(folder.path, outcomes, len(photos) + len(missing), "mask", then)


def _smallest(scores_KHW: Tensor, max_side: int) -> Tensor:
    """What is kept until it is written: of a photo that was not reduced to `max_side`, its mask (H,W) uint8."""
    return best_labels(scores_KHW) if max(scores_KHW.shape[1:]) < max_side else scores_KHW
