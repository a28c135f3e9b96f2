"""`stcl segtrain`: photos and masks -> a segmentation model."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stcl_cli.config import SegtrainConfig
from stcl_cli.console import say
from stcl_cli.data.loader import TrainingViews, training_batches
from stcl_cli.data.outputs import match_outputs, no_mask
from stcl_cli.data.photo_masks import sample_masks
from stcl_cli.data.photos import list_photos
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import find_classes
from stcl_cli.losses.segmentation import mean_cross_entropy
from stcl_cli.networks import build_segmenter, compile_blocks, default_encoder, parameter_groups
from stcl_cli.runtime.device import Runtime, make_runtime, seed_everything
from stcl_cli.runtime.distributed import check_same, devices, joined, ranks
from stcl_cli.stages.output import Result, check_output, open_folder
from stcl_cli.training.engine import Run, check_options, fit
from stcl_cli.training.validation import segmentation_validation
from stcl_cli.wording import counted
from stcl_models.stcl import resize


def run(config: SegtrainConfig) -> Result:
    """Train, or go on training. Raises StclError."""
    runtime = make_runtime(config.device, config.amp)
    with joined(runtime.device):
        return _train(config, runtime)


def _train(config: SegtrainConfig, runtime: Runtime) -> Result:
    check_output(config)
    photos, missing = list_photos(config.images, config.list)
    masks = match_outputs(config.masks, ".png", photos).by_photo
    with_mask = [photo for photo in photos if photo.name in masks]
    if not with_mask:
        raise no_mask(config.masks, config.images)
    classes = find_classes(config.classes, Path(config.masks))
    check_same("photos and masks", *classes, *(photo.name for photo in with_mask))
    looked_at = sample_masks(with_mask, masks, classes)
    say(looked_at.describe(len(with_mask)))
    if looked_at.blank:
        raise StclError(
            f"{config.masks}: its masks are all background (0) or ignored (255): there is nothing to learn; an "
            "object has the value of its class, 1 and up"
        )
    config = replace(config, encoder=config.encoder or default_encoder(config))
    seed_everything(config.seed, 0)
    model = build_segmenter(config, len(classes))
    if config.crop_size % model.multiple:
        raise StclError(f"--crop-size {config.crop_size}: must be a multiple of {model.multiple} for {config.encoder}")
    check_options(config)
    if config.batch_size * ranks() // config.accumulate == 1:
        _check_one_is_enough(model, config)
    if config.compile:
        compile_blocks(model, runtime.device)
    validate = segmentation_validation(model, config, runtime, classes)
    folder, _ = open_folder(config, "segtrain", classes)
    if len(with_mask) < len(photos):
        say(f"{counted(len(photos) - len(with_mask), 'photo')} without a mask in {config.masks} left out")

    views = TrainingViews(
        with_mask,
        config,
        model.mean,
        masks=[masks[photo.name] for photo in with_mask],
        classes=len(classes),
    )
    network = f"{config.arch} with {config.encoder}"
    learnt = f"{counted(len(with_mask), 'photo')}, {counted(len(classes), 'class')}"
    say(f"{learnt}, {network} on {devices(runtime.device)}")
    measured, skipped = fit(
        Run(
            stage="segtrain",
            folder=folder,
            config=config,
            classes=classes,
            photos={photo.name: [] for photo in with_mask},  # their masks say what they show
            model=model,
            groups=parameter_groups(model.encoder, model, config.lr),
            step=cross_entropy_step(model, runtime),
            batches=training_batches(views, config, runtime.device),
            runtime=runtime,
            skipped=missing,
            validate=validate,
        )
    )
    if measured:
        say(f"mIoU on {config.val_masks}: {measured['miou']:.3f}")
    then = ("predict", config.images, "-m", config.output, "-o", "PREDICTIONS")
    return Result(skipped=skipped, next=then)


def _check_one_is_enough(model: nn.Module, config: SegtrainConfig) -> None:
    """StclError if a step of one photo leaves a batch norm a single pixel: a copy of the network tries it."""
    if config.arch == "vit":
        return
    try:
        with torch.no_grad():
            copy.deepcopy(model).train()(model.normalise(torch.zeros(1, 3, config.crop_size, config.crop_size)))
    except ValueError as error:
        raise StclError(
            f"--arch {config.arch}: norms over a batch, of at least 2 photos; raise --batch-size"
        ) from error


def cross_entropy_step(model: nn.Module, runtime: Runtime) -> Any:
    """Mean cross entropy over the pixels that are not 255."""

    def step(batch: dict[str, Tensor], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        with runtime.autocast():
            scores = model(model.normalise(batch["photo"]))
        scores = resize(scores.float(), batch["mask"].shape[-2:])
        return mean_cross_entropy(scores, batch["mask"].long()), {}

    return step
