"""The second stage: segtrain, predict."""

from __future__ import annotations

from dataclasses import dataclass

from stcl_cli.config.options import (
    COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    images_argument,
    labels_format_option,
    list_option,
    option,
    output_option,
    overlays_option,
)
from stcl_cli.config.shared import Compute, Sharing, Training


@dataclass(frozen=True, kw_only=True)
class SegtrainConfig(Training):
    """`stcl segtrain`: photos and masks -> a segmentation model."""

    images: str = images_argument()
    masks: str = option(help="Folder of masks named like the photos; 255 is ignored.", path=True, metavar="DIR")
    output: str = output_option("Run folder to write.")
    classes: str | None = option(
        None, "Text file of class names. [default: classes.txt beside the masks]", path=True, metavar="FILE"
    )
    arch: str = option(
        "vit",
        "vit: a timm ViT with a light decoder; the others are segmentation-models-pytorch's.",
        choices=(
            "vit",
            "unet",
            "unetplusplus",
            "deeplabv3",
            "deeplabv3plus",
            "fpn",
            "pspnet",
            "manet",
            "linknet",
            "pan",
            "upernet",
            "segformer",
            "dpt",
        ),
    )
    encoder: str | None = option(
        None,
        "timm encoder. [default: the backbone of --init, else vit_base_patch16_224.augreg_in21k_ft_in1k or resnet50]",
    )
    init: str | None = option(
        None, "Run folder of `stcl train` whose backbone the vit starts from.", path=True, metavar="RUN"
    )
    weights: str | None = option(
        None, "Encoder weights: a local safetensors file with timm's names.", path=True, metavar="FILE"
    )
    pretrained: bool = option(True, "Without --init and --weights: pretrained weights (a download), or random ones.")
    iterations: int = option(20_000, "Optimiser steps.", range=COUNT)
    batch_size: int = option(8, "Photos a step.", range=COUNT)
    crop_size: int = option(448, "Side of the square training crop, in pixels.", range=COUNT)
    rescale: tuple[float, float] = option((0.5, 2.0), "Range of the random rescaling before the crop.", range=POSITIVE)
    lr: float = option(6e-5, "Learning rate of the encoder; the decoder takes ten times that.", range=POSITIVE)
    weight_decay: float = option(0.01, "AdamW's weight decay.", range=NOT_NEGATIVE)
    warmup: float = option(0.05, "Share of the run in which the learning rate rises.", range=SHARE)


@dataclass(frozen=True, kw_only=True)
class PredictConfig(Compute, Sharing):
    """`stcl predict`: photos and a segmentation model -> one mask a photo."""

    images: str = images_argument()
    model: str = option(
        help="Run folder of `stcl segtrain` (its best checkpoint by --val-masks, else the last), or a checkpoint.",
        short="-m",
        path=True,
        metavar="SEG",
    )
    output: str = output_option("Folder for the masks.")
    overlays: str | None = overlays_option()
    labels: str | None = option(
        None,
        "Image-level labels, as for train: of the photos that have them no other class comes into the mask. [default: "
        "any class may be in any photo]",
        path=True,
    )
    labels_format: str = labels_format_option()
    list: str | None = list_option()
    scales: tuple[float, ...] = option(
        (1.0,),
        "Scale to look at a photo in. Give several one by one: their scores are averaged.",
        multiple=True,
        range=POSITIVE,
    )
    flip: bool = option(True, "Average with the mirror image.")
