"""`stcl eval`: masks, or CAM files, against true masks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Column, Table

from stcl_cli.config import EvalConfig
from stcl_cli.console import meter, say, say_table, warn
from stcl_cli.data.outputs import has_files, match_outputs
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.evaluation.cam_sweep import CamSweep
from stcl_cli.evaluation.comparing import (
    ONLY_BACKGROUND,
    TrueClasses,
    compare_cam,
    compare_mask,
    read_truth,
    true_classes,
)
from stcl_cli.evaluation.metrics import iou_per_class, mean_iou
from stcl_cli.formats.cams import read_cam
from stcl_cli.formats.classes import find_classes
from stcl_cli.formats.files import output_path
from stcl_cli.formats.masks import IGNORE, read_mask
from stcl_cli.stages.output import Result, ToldSkipped, tell_unused
from stcl_cli.wording import shown, some


def run(config: EvalConfig) -> Result:
    """Measure. Raises StclError."""
    predictions = Path(config.predictions)
    suffix = ".safetensors" if has_files(predictions, ".safetensors") else ".png"
    # Photos may lie among the true masks, which are not always PNGs.
    kind = ".png" if has_files(Path(config.truth), ".png") else ""
    truths, missing = list_photos(config.truth, config.list, kind)
    files = match_outputs(predictions, suffix, truths).by_photo
    found = [(truth, files[truth.name]) for truth in truths if truth.name in files]
    if not found:
        raise StclError(f"{shown(predictions)}: holds no mask or CAM file named like one in {shown(config.truth)}")
    if config.list:  # named one by one, so each has to be there
        paths = {
            truth.name: output_path(predictions, truth.name, suffix) for truth in truths if truth.name not in files
        }
        missing = missing + [(name, f"{shown(path)}: is not there") for name, path in paths.items()]
    elif len(found) < len(truths):
        without = [truth.name for truth in truths if truth.name not in files]
        warn(f"{len(without)} of {len(truths)} true masks have no prediction and are left out: {some(without)}")
    skipped = ToldSkipped()
    for name, reason in missing:
        skipped.add(f"{shown(name)}: {reason}")
    classes = _classes(config)
    measure = _measure_cams if suffix == ".safetensors" else _measure_masks
    if measure is _measure_cams:
        tell_unused(config, ["ignore_predictions"], "it is of masks; CAMs have no pixel of 255")
    summary, matrix = measure(found, classes, config, skipped)
    if not matrix.any() and config.ignore_predictions and summary["ignored_predictions"]:
        raise StclError(
            f"{shown(config.predictions)}: is 255 wherever there is a truth; measure it without --ignore-predictions"
        )
    if not matrix.any():
        raise StclError(f"{shown(config.truth)}: its true masks are 255, ignored, everywhere; nothing can be measured")
    per_class = dict(zip(("background", *classes.names), iou_per_class(matrix).tolist(), strict=True))
    summary["missing_predictions"] = len(truths) - len(found)
    summary |= {"per_class": {name: None if math.isnan(iou) else iou for name, iou in per_class.items()}}
    _print_table(summary)
    if not matrix[1:].any():
        warn(f"{shown(config.truth)}: {ONLY_BACKGROUND}")
    skipped.say_how_many()
    return Result(summary=summary, skipped=skipped.count)


def _classes(config: EvalConfig) -> TrueClasses:
    """Their names, and the values of true masks; --classes names the values of both."""
    names = find_classes(config.classes, Path(config.predictions), Path(config.truth))
    if config.classes:
        return TrueClasses(names, np.arange(len(names) + 1, dtype=np.uint8), len(names))
    classes = true_classes(names, config.truth)
    if classes.reordered:
        say(f"{shown(config.truth)}: its classes are in another order, or others; they are compared by their names")
    return classes


def _measure_masks(
    found: list[tuple[Photo, Path]], classes: TrueClasses, config: EvalConfig, skipped: ToldSkipped
) -> tuple[dict[str, Any], np.ndarray]:
    count = len(classes.names)
    matrix = np.zeros((count + 1, count + 2), np.int64)
    images = ignored = 0
    with meter("eval", len(found)) as gauge:
        for truth, path in found:
            try:
                mask, true = read_mask(path), read_truth(truth.path, classes)
                matrix += compare_mask(path, mask, true, count, classes.predicted, config.ignore_predictions)
                ignored += int(np.count_nonzero((mask == IGNORE) & (true != IGNORE)))
                images += 1
            except PhotoError as error:
                skipped.add(error)
            gauge.advance()
    if not images:
        skipped.say_how_many()
        raise StclError(f"{shown(config.predictions)}: none of its masks could be measured")
    summary = {
        "miou": mean_iou(matrix),
        "images": images,
        "ignored_predictions": ignored,
        "unknown_predictions": int(matrix[:, -1].sum()) - (0 if config.ignore_predictions else ignored),
        "ignored_predictions_count_as": "left out" if config.ignore_predictions else "errors",
    }
    return summary, matrix


def _measure_cams(
    found: list[tuple[Photo, Path]], classes: TrueClasses, config: EvalConfig, skipped: ToldSkipped
) -> tuple[dict[str, Any], np.ndarray]:
    sweep = CamSweep(len(classes.names))
    images = 0
    with meter("eval", len(found)) as gauge:
        for truth, path in found:
            try:
                compare_cam(path, read_cam(path), read_truth(truth.path, classes), sweep, classes.names)
                images += 1
            except PhotoError as error:
                skipped.add(error)
            gauge.advance()
    if not images:
        skipped.say_how_many()
        raise StclError(f"{shown(config.predictions)}: none of its CAM files could be measured")
    miou, background = sweep.best()
    summary = {"miou": miou, "images": images, "ignored_predictions": 0, "unknown_predictions": 0}
    summary["best_background"] = background
    return summary, sweep.confusion(round(background * 100))


def _print_table(summary: dict[str, Any]) -> None:
    table = Table(Column("class", overflow="fold"), Column("IoU", justify="right", no_wrap=True))
    for name, iou in summary["per_class"].items():
        if iou is not None:  # classes that are not in the truth have none
            table.add_row(shown(name), f"{iou:.3f}")
    table.add_section()
    table.add_row("mean", f"{summary['miou']:.3f}")
    say_table(table)
    if "best_background" in summary:
        say(f"CAMs at their best background score, {summary['best_background']:.2f}, found on these very masks")
    if summary["ignored_predictions"]:
        how = summary["ignored_predictions_count_as"]
        pixels = f"pixels predicted as 255: {summary['ignored_predictions']:,}"
        say(f"{pixels}, here {how} (see --ignore-predictions)")
    if summary["unknown_predictions"]:
        say(f"pixels predicted as a value that is no class: {summary['unknown_predictions']:,}, errors; see --classes")
