"""`stcl train`: photos and image-level labels -> a run folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stcl_cli.config import TrainConfig
from stcl_cli.console import say
from stcl_cli.data.labels import Labels, match_labels, read_labels
from stcl_cli.data.loader import TrainingViews, training_batches
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.engine import Run, fit
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import read_classes
from stcl_cli.networks import build_stcl, parameter_groups
from stcl_cli.runtime import make_runtime, seed_everything
from stcl_cli.stages.objective import Objective
from stcl_cli.stages.output import Result, open_folder
from stcl_cli.validation import cam_validation


def run(config: TrainConfig) -> Result:
    """Train, or go on training. Raises StclError."""
    runtime = make_runtime(config.device, config.amp)
    labelled, labels, skipped = labelled_photos(config)
    seed_everything(config.seed, 0)
    model = build_stcl(config, len(labels.classes))
    patch = model.backbone.patch_size
    if config.crop_size % (2 * patch):
        raise StclError(
            f"--crop-size {config.crop_size}: must be a multiple of {2 * patch}, twice the patch of {config.backbone}"
        )
    folder, failures = open_folder(config, "train", labels.classes)
    for name, reason in skipped:
        failures.add(name, reason)

    multi_hot = np.zeros((len(labelled), len(labels.classes)), np.float32)
    for row, (_, classes) in zip(multi_hot, labelled, strict=True):
        row[list(classes)] = 1
    views = TrainingViews([photo for photo, _ in labelled], config, model.backbone.mean, labels=multi_hot)
    say(f"{len(labelled)} photos, {len(labels.classes)} classes, {config.backbone} on {runtime.device}")
    fit(
        Run(
            stage="train",
            folder=folder,
            config=config,
            classes=labels.classes,
            model=model,
            groups=parameter_groups(model.backbone, model, config.lr),
            step=Objective(model, config, runtime),
            batches=training_batches(views, config, runtime.device),
            runtime=runtime,
            failures=failures,
            validate=cam_validation(model, config, runtime, labelled),
        )
    )
    say(f"next: stcl cam {config.images} -m {config.output} --labels {config.labels} -o CAMS")
    return Result(skipped=len(failures))


def labelled_photos(config: TrainConfig) -> tuple[list[tuple[Photo, tuple[int, ...]]], Labels, list[tuple[str, str]]]:
    """Photos with their classes, the labels, and what has to be skipped, each with the reason."""
    classes = read_classes(Path(config.classes)) if config.classes else None
    labels = read_labels(config.labels, classes, config.labels_format)
    photos, missing = list_photos(config.images, config.list)
    matched, unlabelled, unknown = match_labels(photos, labels)
    skipped = missing + [(photo.name, f"no label in {config.labels}") for photo in unlabelled]
    if config.list is None:  # with --list, labels of photos left out are no mistake
        skipped += [(name, f"{config.labels}: {reason} in {config.images}") for name, reason in unknown]
    if not matched:
        raise StclError(
            f"{config.labels}: none of its names is a photo in {config.images}; names go with or without suffix"
        )
    return matched, labels, skipped
