"""Commands that run the other stages: run, bench, demo."""

from __future__ import annotations

from dataclasses import dataclass

from stcl_cli.config.labelling import TrainConfig
from stcl_cli.config.options import COUNT, NOT_NEGATIVE, POSITIVE, as_in, option, output_option
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
    lr: float | None = option(
        None, "Learning rate of each training. [default: as in train and segtrain]", range=POSITIVE
    )
    max_side: int | None = option(
        None, "Photos with a longer side are reduced to this many pixels. [default: as in each stage]", range=COUNT
    )
    seed: int = as_in(TrainConfig, "seed")
    val_masks: str | None = as_in(TrainConfig, "val_masks")


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """`stcl bench`: how fast the stages run on this machine, on photos and weights made up for it."""

    what: tuple[str, ...] = option(
        (),
        "What to measure. [default: all]",
        positional=True,
        multiple=True,
        choices=("train", "cam", "refine", "segtrain", "predict"),
    )
    backbone: str = option(TrainConfig.backbone, "Any VisionTransformer of timm; its weights are random.")
    crop_size: int = option(448, "Side of the photos and of the training crops, in pixels.", range={"min": 32})
    batch_size: int = option(4, "Photos a training step.", range=COUNT)
    photos: int | None = option(
        None,
        "How many photos each measurement takes, of cam, refine and predict at least four batches. [default: 16 on "
        "the CPU, 1024 on a GPU, more of small ones]",
        range={"min": 8},
    )
    w_class: float = option(0.0, "As for train: above 0 class token contrast is on.", range=NOT_NEGATIVE)
    w_seg: float = option(0.0, "As for train: above 0 the segmentation branch is on.", range=NOT_NEGATIVE)
    accumulate: int = as_in(TrainConfig, "accumulate")
    checkpointing: bool = as_in(TrainConfig, "checkpointing")
    device: str = as_in(TrainConfig, "device")
    amp: str = as_in(TrainConfig, "amp")
    compile: bool = as_in(TrainConfig, "compile")
    workers: int | None = as_in(TrainConfig, "workers")


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Folder):
    """`stcl demo`: a drawn scene set, the whole chain on it, and pictures of what came out."""

    output: str = option("stcl-demo", "Folder to write.", short="-o", path=True, metavar="DIR")
    device: str = option("cpu", "auto, cpu, cuda or cuda:N.")
    seed: int = option(0, "Fixes the scenes and every random choice.", range=NOT_NEGATIVE)
