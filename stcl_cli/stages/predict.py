"""`stcl predict`: photos and a segmentation model -> one mask a photo."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stcl_cli.cams import best_labels
from stcl_cli.config import PredictConfig
from stcl_cli.console import meter, say, warn
from stcl_cli.data.labels import labels_of
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.data.pixels import photo_size, read_photo
from stcl_cli.errors import PhotoError
from stcl_cli.formats.masks import read_mask
from stcl_cli.formats.photo_labels import PhotoLabels, add_photo_labels, check_photo_labels, read_photo_labels
from stcl_cli.inference import network_size, photo_scores
from stcl_cli.networks import compile_blocks, load_segmenter
from stcl_cli.runtime.device import Runtime, fetch, make_runtime, upload
from stcl_cli.runtime.out_of_memory import Network
from stcl_cli.runtime.pipeline import Pipeline
from stcl_cli.stages.output import Done, MaskFolder, Outcomes, Result, finish, nobody, skip, tell_unused
from stcl_cli.strips import argmax_at_size
from stcl_cli.wording import counted

Input = tuple[np.ndarray, list[int]]  # a photo, and the values that its mask may have
Output = tuple[list[int], Callable[[], np.ndarray]]  # those, and what its mask is made of once it is there


def run(config: PredictConfig, done: Done = nobody) -> Result:
    """Predict. Raises StclError."""
    if not config.labels:
        tell_unused(config, ["labels_format"], "it is of the file that --labels names, and there is none")
    runtime = make_runtime(config.device, config.amp)
    model, info, trained = load_segmenter(Path(config.model))
    if config.compile:
        compile_blocks(model, runtime.device)
    photos, missing = list_photos(config.images, config.list)
    values_of: dict[str, list[int]] = {}
    if config.labels:
        given, unlabelled = labels_of(photos, config.labels, info.classes, config.labels_format, config.images)
        values_of = {name: [0, *(label + 1 for label in labels)] for name, labels in given.items()}
        if unlabelled:
            say(f"{counted(len(unlabelled), 'photo')} without labels: any class may be in them")
    every = list(range(len(info.classes) + 1))
    asked = {name: [info.classes[value - 1] for value in values[1:]] for name, values in values_of.items()}
    folder = MaskFolder(config, "predict", info.classes, asked or None)
    mine = folder.failures.shard.mine
    if asked:
        # A mask that was made with labels is not taken for one that may show any class.
        check_photo_labels(folder.path, {photo.name: info.classes for photo in photos if photo.name not in asked})
        _keep_labels(folder, {name: names for name, names in asked.items() if mine(name)})
    photos = [photo for photo in photos if mine(photo.name)]
    missing = [(name, reason) for name, reason in missing if mine(name)]
    skip(folder.failures, missing)
    network = Network(model, runtime)
    todo = [photo for photo in photos if not folder.has(photo.name)]

    def read(photo: Photo) -> np.ndarray | None:
        if os.path.isfile(folder.mask_path(photo.name)):
            return None  # what lacks is its overlay
        return read_photo(photo.path, trained.max_side)

    def find(model: nn.Module, runtime: Runtime, inputs: list[Input]) -> list[Output]:
        found = photo_scores(model, runtime, [pixels for pixels, _ in inputs], scales=config.scales, flip=config.flip)
        return [
            (values, fetch(_smallest(_among(scores, values), trained.max_side)))
            for scores, (_, values) in zip(found, inputs, strict=True)
        ]

    def compute(photos: list[Photo], pixels: list[np.ndarray]) -> list[Output | PhotoError]:
        inputs = [(image, values_of.get(photo.name, every)) for photo, image in zip(photos, pixels, strict=True)]
        return network.compute(find, inputs, [photo.path for photo in photos])

    def write(photo: Photo, output: Output | None) -> dict[str, Any]:
        if output is None:
            return folder.write(photo, read_mask(folder.mask_path(photo.name)))
        values, found = output
        place = found()
        if place.ndim == 3:
            place = argmax_at_size(place, photo_size(photo.path))
        return folder.write(photo, np.array(values, np.uint8)[place])

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


def _keep_labels(folder: MaskFolder, labels: PhotoLabels) -> None:
    """Into photos.json. A mask that was made before its photo had labels is made anew."""
    before = read_photo_labels(folder.path) or {}
    for name in labels.keys() - before.keys():
        folder.remove(name)
    add_photo_labels(folder.path, labels)


def _among(scores_KHW: Tensor, values: list[int]) -> Tensor:
    """The scores of these classes alone."""
    if len(values) == len(scores_KHW):
        return scores_KHW
    return scores_KHW.index_select(0, upload(torch.tensor(values), scores_KHW.device))


def _smallest(scores_KHW: Tensor, max_side: int) -> Tensor:
    """What is kept until it is written: of a photo that was not reduced to `max_side`, its mask (H,W) uint8."""
    return best_labels(scores_KHW) if max(scores_KHW.shape[1:]) < max_side else scores_KHW
