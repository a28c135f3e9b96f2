"""`stcl train`: photos and image-level labels -> a run folder."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stcl_cli.config import TrainConfig
from stcl_cli.console import say, warn
from stcl_cli.data.inventory import describe, take_inventory
from stcl_cli.data.loader import TrainingViews, training_batches
from stcl_cli.errors import StclError
from stcl_cli.networks import LAYER_DECAY, build_stcl, compile_blocks, parameter_groups
from stcl_cli.runtime.device import Runtime, make_runtime, seed_everything
from stcl_cli.runtime.distributed import check_same, devices, joined
from stcl_cli.stages.output import Result, check_output, open_folder
from stcl_cli.training.consolidate import consolidate
from stcl_cli.training.engine import Run, check_options, fit
from stcl_cli.training.objective import Objective, local_window
from stcl_cli.training.validation import cam_validation
from stcl_cli.wording import counted, shown
from stcl_models.stcl import Stcl


def run(config: TrainConfig) -> Result:
    """Train, or go on training. Raises StclError."""
    runtime = make_runtime(config.device, config.amp)
    with joined(runtime.device):
        return _train(config, runtime)


def _train(config: TrainConfig, runtime: Runtime) -> Result:
    check_output(config)
    found = take_inventory(config, config.labels)
    labelled, labels = found.labelled, found.labels
    check_same("photos and labels", *labels.classes, *(f"{photo.name} {classes}" for photo, classes in labelled))
    for line in describe(found):
        say(line)
    for line in found.warnings():
        warn(line)
    if not any(classes for _, classes in labelled):
        raise StclError(f"{shown(config.labels)}: says of no photo that it shows a class: there is nothing to learn")
    seed_everything(config.seed, 0)
    model = build_stcl(config, len(labels.classes))
    patch = model.backbone.patch_size
    if config.crop_size % (2 * patch):
        raise StclError(
            f"--crop-size {config.crop_size}: must be a multiple of {2 * patch}, twice the patch of {config.backbone}"
        )
    if config.beta_low > config.beta_high:
        raise StclError(f"--beta-low {config.beta_low}: lies above --beta-high {config.beta_high}; lower it")
    check_options(config)
    local_window(config, patch)  # says before the folder is opened that there is none
    if config.compile:
        compile_blocks(model, runtime.device)
    validate = cam_validation(model, config, runtime, labels.classes, labels)
    photos = {photo.name: [labels.classes[label] for label in shows] for photo, shows in labelled}
    folder, _ = open_folder(config, "train", labels.classes, photos)

    multi_hot = np.zeros((len(labelled), len(labels.classes)), np.float32)
    for row, (_, classes) in zip(multi_hot, labelled, strict=True):
        row[list(classes)] = 1
    views = TrainingViews(
        [photo for photo, _ in labelled], config, model.backbone.mean, labels=multi_hot, uniforms=config.local_crops
    )
    learnt = f"{counted(len(labelled), 'photo')}, {counted(len(labels.classes), 'class')}"
    say(f"{learnt}, {config.backbone} on {devices(runtime.device)}")
    consolidation = None
    most = max(len(classes) for _, classes in labelled)
    objective = Objective(model, config, runtime, most_labels=most)
    if model.memory is not None and config.memory_consolidation:

        def consolidation(tell: Callable[[str], None]) -> list[tuple[str, str]]:
            objective.forget()
            return consolidate(model, config, runtime, labelled, tell)

    _, skipped = fit(
        Run(
            stage="train",
            folder=folder,
            config=config,
            classes=labels.classes,
            photos=photos,
            model=model,
            groups=parameter_groups(model.backbone, model, config.lr, _layer_decay(config)),
            step=objective,
            batches=training_batches(views, config, runtime.device),
            runtime=runtime,
            skipped=found.skipped(),
            validate=validate,
            finish=consolidation,
            figures=memory_figures(model),
        )
    )
    named = () if config.labels_format == "auto" else ("--labels-format", config.labels_format)
    then = ("cam", config.images, "-m", config.output, "--labels", config.labels, *named, "-o", "CAMS")
    return Result(skipped=skipped, next=then)


def _layer_decay(config: TrainConfig) -> float:
    """Random weights know nothing that would have to be kept."""
    if config.layer_decay is not None:
        return config.layer_decay
    return LAYER_DECAY if config.pretrained or config.weights else 1.0


def memory_figures(model: Stcl) -> Callable[[], dict[str, float]] | None:
    """What metrics.jsonl says of the memory bank, as memory_NAME; None without one."""
    if model.memory is None:
        return None
    return lambda: {f"memory_{name}": value for name, value in model.memory.statistics().items()}
