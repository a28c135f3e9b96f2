"""From image-level labels to masks: train, cam, refine."""

from __future__ import annotations

from dataclasses import dataclass

from stcl_cli.config.options import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    WITHIN_FLOAT,
    images_argument,
    labels_format_option,
    list_option,
    option,
    output_option,
    overlays_option,
)
from stcl_cli.config.shared import Compute, Sharing, Training


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Training):
    """`stcl train`: photos and image-level labels -> a run folder.

    Defaults are ToCo's for VOC unless a comment says otherwise.
    """

    images: str = images_argument()
    labels: str = option(
        help="Image-level labels: CSV, JSON, COCO, VOC, YOLO, CVAT, ... or a folder a class. See docs/labels.md.",
        path=True,
    )
    labels_format: str = labels_format_option()
    output: str = output_option("Run folder to write.")
    classes: str | None = option(
        None,
        "Text file, one class a line: fixes the classes and their order. [default: from the labels]",
        path=True,
        metavar="FILE",
    )
    # network
    backbone: str = option(
        "vit_base_patch16_224.augreg_in21k_ft_in1k",
        "Any VisionTransformer of timm; or stcl_tiny (with --no-pretrained), a small one to try things on a CPU.",
    )
    weights: str | None = option(
        None, "Backbone weights: a local safetensors file with timm's names.", path=True, metavar="FILE"
    )
    pretrained: bool = option(True, "Without --weights: timm's own pretrained weights (a download), or random ones.")
    aux_layer: int = option(-3, "Block whose tokens feed the auxiliary classifier, counted from the end.")
    memory_layer: int | None = option(
        None, "Block whose tokens the memory keeps, counted from the end. [default: at two thirds of the depth]"
    )
    top_share: float = option(
        0.0,
        "0: class scores by global max pooling. Above: by the mean of this share of the tokens, those that activate a "
        "class most; it learns faster from random weights, and far slower from pretrained ones.",
        range=SHARE,
    )
    # schedule
    iterations: int = option(20_000, "Optimiser steps. All phases are fractions of it.", range=COUNT)
    batch_size: int = option(4, "Photos a step.", range=COUNT)
    crop_size: int = option(448, "Side of the square training crop, in pixels.", range=COUNT)
    rescale: tuple[float, float] = option((0.5, 2.0), "Range of the random rescaling before the crop.", range=POSITIVE)
    lr: float = option(6e-5, "Learning rate of the backbone; heads and decoder take ten times that.", range=POSITIVE)
    layer_decay: float | None = option(
        None,
        "Learning rate of each of the backbone's blocks as a share of the next one's, so that pretrained weights keep "
        "what they know of objects; 1: the same for all. [default: 0.75, from random weights 1]",
        range=SHARE,
    )
    weight_decay: float = option(0.01, "AdamW's weight decay.", range=NOT_NEGATIVE)
    warmup: float = option(0.075, "Share of the run in which the learning rate rises.", range=SHARE)
    contrast_start: float = option(
        0.4,
        "Share of the run after which the memory fills; the contrast losses join here where no memory guides.",
        range=SHARE,
    )
    memory_start: float = option(
        0.5,
        "Share of the run after which the memory guides, and its loss and the other contrast losses join.",
        range=SHARE,
    )
    segmentation_start: float = option(0.6, "Share of the run after which the segmentation branch joins.", range=SHARE)
    # CAM and pseudo labels
    cam_scales: tuple[float, ...] = option(
        (1.0, 0.5, 1.5),
        "Scale of the CAM that makes pseudo labels in training. Give several one by one.",
        multiple=True,
        range=POSITIVE,
    )
    beta_high: float = option(0.7, "CAM values from here up are foreground.", range=SHARE)
    beta_low: float = option(0.25, "CAM values up to here are background; between the two: ignored.", range=SHARE)
    # memory bank
    memory_slots: int = option(
        256,
        "Region embeddings the memory keeps of each class and of background; 0 switches the memory off.",
        range=NOT_NEGATIVE,
    )
    memory_update: str = option(
        "adaptive",
        "adaptive: gated, the least valuable entry goes; fifo: everything, the oldest goes.",
        choices=("adaptive", "fifo"),
    )
    memory_half_life: float = option(
        0.1, "Share of the run in which an entry loses half of its value; for --memory-update adaptive.", range=POSITIVE
    )
    memory_consolidation: bool = option(
        True, "Fill the memory anew at the end, from whole photos; --no-memory-consolidation keeps that of training."
    )
    memory_loss: str = option(
        "adaptive",
        "adaptive: weighs by quality, hardness and fill; fixed: all weights one.",
        choices=("adaptive", "fixed"),
    )
    guidance: float = option(
        0.7, "Share of the memory's maps in the pseudo labels of training; 0 switches guidance off.", range=SHARE
    )
    # losses
    w_memory: float = option(0.1, "Weight of the memory contrast; 0 switches it off.", range=NOT_NEGATIVE)
    w_patch: float = option(0.2, "Weight of patch token contrast; 0 switches it off.", range=NOT_NEGATIVE)
    # Off, unlike ToCo's 0.5 and 0.1: beside the memory's guidance both cost accuracy (on two sets, one seed) and time.
    w_class: float = option(0.0, "Weight of class token contrast (ToCo: 0.5); 0: off.", range=NOT_NEGATIVE)
    w_seg: float = option(0.0, "Weight of the segmentation branch (ToCo: 0.1); 0: off.", range=NOT_NEGATIVE)
    w_reg: float = option(0.05, "Weight of that branch's edge-following regulariser; 0: off.", range=NOT_NEGATIVE)
    local_crops: int = option(8, "Local crops a photo for class token contrast.", range=COUNT)
    local_crop_size: int | None = option(
        None, "Their side in pixels, of 4 patches or more. [default: 96 at crop 448, in proportion]", range=COUNT
    )
    temperature: float = option(0.5, "Temperature of class token contrast.", range=POSITIVE)
    memory_temperature: float = option(0.1, "Temperature of memory contrast.", range=POSITIVE)
    ema: float = option(0.9, "Momentum of the teacher head.", range=SHARE)


@dataclass(frozen=True, kw_only=True)
class CamConfig(Compute, Sharing):
    """`stcl cam`: photos and a run -> one CAM file a photo."""

    images: str = images_argument()
    model: str = option(
        help="Run folder of `stcl train` (its best checkpoint by --val-masks, else the last), or a checkpoint.",
        short="-m",
        path=True,
        metavar="RUN",
    )
    output: str = output_option("Folder for the CAM files.")
    labels: str | None = option(
        None, "Image-level labels, as for train. [default: the labels the classifier predicts]", path=True
    )
    labels_format: str = labels_format_option()
    list: str | None = list_option()
    scales: tuple[float, ...] = option(
        (1.0, 0.5, 1.5),
        "Scale to look at a photo in, with its mirror image. Give several one by one: CAMs are their mean.",
        multiple=True,
        range=POSITIVE,
    )
    memory: float | None = option(
        None,
        "Share of the memory's map in what is written; 0: the classifier's CAM alone. [default: the run's --guidance]",
        range=SHARE,
    )
    threshold: float | None = option(
        None,
        "Without --labels: a class counts as shown from this probability. [default: for each class the one at which "
        "the run found the labels it was trained with best; 0.5 where it found none, or --memory is 0]",
        range=SHARE,
    )
    affinity: bool = option(False, "Also keep how alike neighbouring patches are, for `stcl refine --method affinity`.")


@dataclass(frozen=True, kw_only=True)
class RefineConfig(Sharing):
    """`stcl refine`: CAM files, or masks, and photos -> one palette PNG mask a photo."""

    cams: str = option(
        help="Folder of CAM files, from `stcl cam`, or of masks (PNG) with their classes.txt.",
        positional=True,
        path=True,
    )
    images: str = option(help="The photos they were made from: a folder, a list file, or -.", path=True)
    output: str = output_option("Folder for the masks.")
    overlays: str | None = overlays_option()
    method: str = option(
        "crf",
        "What is done to the CAMs, from patches over pixels to the whole photo. affinity: a random walk completes "
        "objects (CAMs of `stcl cam --affinity`); par: pixel-adaptive refinement; crf: dense CRF.",
        choices=("none", "affinity", "par", "crf", "affinity,par", "affinity,crf", "par,crf", "affinity,par,crf"),
    )
    background: tuple[float, ...] = option(
        (0.45,),
        "Background score of CAMs. Give it twice, low and high, and what lies between becomes 255 (ignored).",
        multiple=True,
        range=SHARE,
    )
    confidence: float = option(
        0.7,
        "For masks in place of CAMs: how probable it is that a pixel's label is right. 255 says nothing of a pixel.",
        range={"min": 0, "max": 1, "min_open": True, "max_open": True},
    )
    walk_steps: int = option(16, "Steps of the random walk.", range=NOT_NEGATIVE)
    walk_sharpness: float = option(
        16.0, "Power of the patch similarities it walks on: more keeps to the most similar.", range=POSITIVE
    )
    crf_preset: str = option(
        "toco-cam", "Dense CRF settings people cite.", choices=("irn", "toco-cam", "toco-seg", "psa", "deeplab")
    )
    # None: the preset's; the names are those of refine.presets.CrfParams
    crf_pos_xy: float | None = option(
        None, "Width of the position kernel, in pixels. [default: preset]", range=POSITIVE | WITHIN_FLOAT
    )
    crf_pos_weight: float | None = option(
        None, "Weight of the position kernel. [default: preset]", range=NOT_NEGATIVE | WITHIN_FLOAT
    )
    crf_bilateral_xy: float | None = option(
        None, "Width of the bilateral kernel in pixels. [default: preset]", range=POSITIVE | WITHIN_FLOAT
    )
    crf_bilateral_rgb: float | None = option(
        None,
        "Width of the bilateral kernel in grey levels (0 ... 255). [default: preset]",
        range=POSITIVE | WITHIN_FLOAT,
    )
    crf_bilateral_weight: float | None = option(
        None, "Weight of the bilateral kernel. [default: preset]", range=NOT_NEGATIVE | WITHIN_FLOAT
    )
    crf_iterations: int | None = option(None, "Mean-field iterations. [default: preset]", range=NOT_NEGATIVE)
    backend: str = option(
        "torch",
        "Who computes the dense CRF; pydensecrf is the extra stcl[pydensecrf], on the CPU.",
        choices=("torch", "pydensecrf"),
    )
    max_side: int = option(
        1024, "Photos with a longer side are refined at this size; the mask is the photo's own size.", range=COUNT
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N.")
    workers: int | None = option(
        None,
        "Processes on the CPU, one thread each; 0 or 1: this one alone, with all threads [default: one a core]. Beside "
        "a GPU threads that read and write [default: one a core, up to 8].",
        range=NOT_NEGATIVE,
    )
