"""Commands that run the other stages: run, demo."""

from __future__ import annotations

from dataclasses import dataclass

from stcl_cli.config.labelling import TrainConfig
from stcl_cli.config.options import COUNT, NOT_NEGATIVE, as_in, option, output_option
from stcl_cli.config.shared import Compute, Folder


@dataclass(frozen=True, kw_only=True)
class RunConfig(Compute):
    """`stcl run`: photos and image-level labels -> the outputs of all stages in one folder.

    Fields go to the stages that have one of the same name. None leaves a value to each stage: they differ.
    """

    images: str = as_in(TrainConfig, "images")
    labels: str = as_in(TrainConfig, "labels")
    labels_format: str = as_in(TrainConfig, "labels_format")
    output: str = output_option("Folder to write; what a stopped run did there is kept.")
    overwrite: bool = option(False, "Empty the output folder first and do everything anew.")
    classes: str | None = as_in(TrainConfig, "classes")
    list: str | None = as_in(TrainConfig, "list")
    backbone: str = as_in(TrainConfig, "backbone")
    weights: str | None = as_in(TrainConfig, "weights")
    pretrained: bool = as_in(TrainConfig, "pretrained")
    iterations: int | None = option(
        None, "Optimiser steps of each training. [default: as in train and segtrain]", range=COUNT
    )
    batch_size: int | None = option(None, "Photos a step. [default: as in train and segtrain]", range=COUNT)
    crop_size: int | None = option(
        None, "Side of the square training crop, in pixels. [default: as in train and segtrain]", range=COUNT
    )
    max_side: int | None = option(
        None, "Photos with a longer side are reduced to this many pixels. [default: as in each stage]", range=COUNT
    )
    val_masks: str | None = as_in(TrainConfig, "val_masks")


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Folder):
    """`stcl demo`: a drawn scene set, the whole chain on it, and pictures of what came out."""

    output: str = option("stcl-demo", "Folder to write.", short="-o", path=True, metavar="DIR")
    device: str = option("cpu", "auto, cpu, cuda or cuda:N.")
    seed: int = option(0, "Fixes the scenes and every random choice.", range=NOT_NEGATIVE)
