"""One frozen, flat dataclass a stage: the only place with names, types, defaults and help of what a user can set.

cli.py turns the fields into command line options, each output folder keeps them as config.json, and `--config FILE`
reads them back. Nothing heavy is imported here, so `stcl --help` is instant.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

COUNT = {"min": 1}
NOT_NEGATIVE = {"min": 0}
POSITIVE = {"min": 0, "min_open": True}
SHARE = {"min": 0, "max": 1}


LABEL_FORMATS = (
    "auto",
    "coco",
    "csv",
    "cvat",
    "folders",
    "json",
    "label-studio",
    "labelme",
    "lists",
    "masks",
    "npy",
    "voc",
    "yolo",
)


def option(default: Any = MISSING, help: str = "", **cli: Any) -> Any:
    """A dataclass field with what the command line needs to know of it (`cli`: see cli.options_of)."""
    return field(default=default, metadata={"help": help, **cli})


def images_argument() -> Any:
    return option(
        help="Folder of photos (searched recursively), text file with one path a line, or - for stdin.", positional=True
    )


def output_option(help: str) -> Any:
    return option(help=help, short="-o", path=True, metavar="DIR")


def list_option() -> Any:
    return option(None, "Keep only the photos named in FILE (one a line, suffix optional).", path=True, metavar="FILE")


def labels_format_option() -> Any:
    return option("auto", "What --labels is; auto looks at its content. See docs/labels.md.", choices=LABEL_FORMATS)


def max_side_option() -> Any:
    return option(512, "Photos with a longer side are reduced to this many pixels before anything else.", range=COUNT)


def overlays_option() -> Any:
    return option(None, "Also write each mask over its photo, as a JPEG to look at, here.", path=True, metavar="DIR")


def as_in(config_class: type, name: str) -> Any:
    """A field like the one of another command: the same default, help and option."""
    field = config_class.__dataclass_fields__[name]
    return option(field.default, **field.metadata)


def check_values(config: Any) -> None:
    """Look at the values of a config that came from a file: types, choices and ranges, as click does on a command line.

    Raises:
        ValueError: one is of another kind; the message names it.
    """
    hints = get_type_hints(type(config))
    for item in fields(config):
        value, meta = getattr(config, item.name), item.metadata
        values = value if isinstance(value, list | tuple) else [value]
        low, high = meta.get("range", {}).get("min"), meta.get("range", {}).get("max")
        right = _is_of(value, hints[item.name]) and all(
            (low is None or part is None or part >= low)
            and (high is None or part is None or part <= high)
            and ("choices" not in meta or part in meta["choices"])
            for part in values
        )
        if not right:
            raise ValueError(f"{item.name} is {value!r}"[:80])


def _is_of(value: Any, hint: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_is_of(value, part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        parts = [part for part in get_args(hint) if part is not Ellipsis]
        if not isinstance(value, list | tuple) or (Ellipsis not in get_args(hint) and len(value) != len(parts)):
            return False
        return all(_is_of(part, parts[0]) for part in value)
    return type(value) is hint or (hint is float and type(value) is int)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What every command with an output folder shares."""

    resume: bool = option(False, "Go on in a folder that a stopped run left; nothing is done twice.")
    overwrite: bool = option(False, "Empty the output folder first.")


@dataclass(frozen=True, kw_only=True)
class Sharing(Folder):
    """What every command shares whose work several processes can divide."""

    shard: str | None = option(
        None,
        "Do part K of N only, as in 3/8; the parts share the output folder. [default: RANK and WORLD_SIZE, else all]",
        metavar="K/N",
    )


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What every command that runs a network shares."""

    device: str = option("auto", "auto, cpu, cuda or cuda:N. auto takes a GPU where there is one.")
    amp: str = option(
        "auto", "Mixed precision; auto is bf16 on CUDA and off on the CPU.", choices=("auto", "bf16", "off")
    )
    seed: int = option(0, "Fixes every random choice of the run.", range=NOT_NEGATIVE)
    workers: int | None = option(
        None,
        "Processes that read photos in training [default: up to 8 beside a GPU, none on the CPU]; threads that read "
        "and write in cam and predict [default: one a core, up to 8].",
        range=NOT_NEGATIVE,
    )


@dataclass(frozen=True, kw_only=True)
class Training(Compute, Folder):
    """What both trainings share."""

    list: str | None = list_option()
    max_side: int = max_side_option()
    val_masks: str | None = option(
        None, "True masks, only to measure with: mIoU goes to metrics.jsonl.", path=True, metavar="DIR"
    )
    val_list: str | None = option(
        None, "Measure on the photos named in FILE. [default: all with a mask]", path=True, metavar="FILE"
    )
    val_every: int | None = option(None, "Measure every N iterations. [default: a tenth of the run]", range=COUNT)
    save_every: int = option(500, "Write checkpoints/last.safetensors every N iterations.", range=COUNT)
    log_every: int = option(20, "Write metrics.jsonl every N iterations.", range=COUNT)


@dataclass(frozen=True, kw_only=True)
class CheckConfig:
    """`stcl check`: photos, labels and masks -> what is there and what is wrong with it."""

    images: str = images_argument()
    labels: str | None = option(None, "Image-level labels, as for train.", path=True)
    labels_format: str = labels_format_option()
    masks: str | None = option(None, "Folder of masks named like the photos.", path=True, metavar="DIR")
    classes: str | None = option(
        None,
        "Text file, one class a line. [default: from the labels; classes.txt beside the masks]",
        path=True,
        metavar="FILE",
    )
    list: str | None = list_option()
    json: bool = option(False, "Print all that was found as one JSON object.")


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
    backbone: str = option("vit_base_patch16_224.augreg_in21k_ft_in1k", "Any timm ViT.")
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
        "class most; it learns faster from random weights.",
        range=SHARE,
    )
    # schedule
    iterations: int = option(20_000, "Optimiser steps. All phases are fractions of it.", range=COUNT)
    batch_size: int = option(4, "Photos a step.", range=COUNT)
    crop_size: int = option(448, "Side of the square training crop, in pixels.", range=COUNT)
    rescale: tuple[float, float] = option((0.5, 2.0), "Range of the random rescaling before the crop.", range=POSITIVE)
    lr: float = option(6e-5, "Learning rate of the backbone; heads and decoder take ten times that.", range=POSITIVE)
    weight_decay: float = option(0.01, "AdamW's weight decay.", range=NOT_NEGATIVE)
    warmup: float = option(0.075, "Share of the run in which the learning rate rises.", range=SHARE)
    contrast_start: float = option(0.4, "Share of the run after which the contrast losses join.", range=SHARE)
    memory_start: float = option(
        0.5,
        "Share of the run after which the memory guides and its loss joins; it fills from --contrast-start on.",
        range=SHARE,
    )
    segmentation_start: float = option(0.6, "Share of the run after which the segmentation branch joins.", range=SHARE)
    # CAM and pseudo labels
    cam_scales: tuple[float, ...] = option(
        (1.0, 0.5, 1.5), "Scales of the CAM that makes pseudo labels in training.", multiple=True, range=POSITIVE
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
    # Off, unlike ToCo's 0.5 and 0.1: beside the memory's guidance both cost accuracy and time (README, Measured).
    w_class: float = option(0.0, "Weight of class token contrast (ToCo: 0.5); 0: off.", range=NOT_NEGATIVE)
    w_seg: float = option(0.0, "Weight of the segmentation branch (ToCo: 0.1); 0: off.", range=NOT_NEGATIVE)
    w_reg: float = option(0.05, "Weight of that branch's edge-following regulariser; 0: off.", range=NOT_NEGATIVE)
    local_crops: int = option(8, "Local crops a photo for class token contrast.", range=COUNT)
    local_crop_size: int | None = option(
        None, "Their side in pixels. [default: 96 at crop 448, in proportion, 4 patches or more]", range=COUNT
    )
    temperature: float = option(0.5, "Temperature of class token contrast.", range=POSITIVE)
    memory_temperature: float = option(0.1, "Temperature of memory contrast.", range=POSITIVE)
    ema: float = option(0.9, "Momentum of the teacher head.", range=SHARE)


@dataclass(frozen=True, kw_only=True)
class CamConfig(Compute, Sharing):
    """`stcl cam`: photos and a run -> one CAM file a photo."""

    images: str = images_argument()
    model: str = option(
        help="Run folder of `stcl train`, or one of its checkpoints.", short="-m", path=True, metavar="RUN"
    )
    output: str = output_option("Folder for the CAM files.")
    labels: str | None = option(
        None, "Image-level labels, as for train. [default: the labels the classifier predicts]", path=True
    )
    labels_format: str = labels_format_option()
    list: str | None = list_option()
    scales: tuple[float, ...] = option(
        (1.0, 0.5, 1.5), "Scales to sum over, each with its mirror image.", multiple=True, range=POSITIVE
    )
    memory: float = option(
        0.7, "Share of the memory bank's map in what is written; 0: the classifier's CAM alone.", range=SHARE
    )
    threshold: float = option(0.5, "Without --labels: a class counts as shown from this probability.", range=SHARE)
    affinity: bool = option(False, "Also keep which patches are alike, for `stcl refine --method affinity`.")


@dataclass(frozen=True, kw_only=True)
class RefineConfig(Sharing):
    """`stcl refine`: CAM files and photos -> one palette PNG mask a photo."""

    cams: str = option(help="Folder of CAM files, from `stcl cam`.", positional=True, path=True)
    images: str = option(help="The photos the CAMs were made from: a folder, a list file, or -.", path=True)
    output: str = output_option("Folder for the masks.")
    overlays: str | None = overlays_option()
    method: str = option(
        "crf",
        "What is done to the CAMs, from patches over pixels to the whole photo. affinity: a random walk completes "
        "objects (CAMs of `stcl cam --affinity`); par: pixel-adaptive refinement; crf: dense CRF.",
        choices=("none", "affinity", "par", "crf", "affinity,par", "affinity,crf", "par,crf", "affinity,par,crf"),
    )
    background: tuple[float, ...] = option(
        (0.5,),
        "Background score. Give it twice, low and high, and what lies between becomes 255 (ignored).",
        multiple=True,
        range=SHARE,
    )
    walk_steps: int = option(16, "Steps of the random walk.", range=NOT_NEGATIVE)
    walk_sharpness: float = option(
        8.0, "Power of the patch similarities it walks on: more keeps to the most similar.", range=POSITIVE
    )
    crf_preset: str = option(
        "toco-cam", "Dense CRF settings people cite.", choices=("irn", "toco-cam", "toco-seg", "psa", "deeplab")
    )
    # None: the preset's; the names are those of refine.presets.CrfParams
    crf_pos_xy: float | None = option(
        None, "Width of the position kernel, in pixels. [default: preset]", range=POSITIVE
    )
    crf_pos_weight: float | None = option(None, "Weight of the position kernel. [default: preset]", range=NOT_NEGATIVE)
    crf_bilateral_xy: float | None = option(
        None, "Width of the bilateral kernel in pixels. [default: preset]", range=POSITIVE
    )
    crf_bilateral_rgb: float | None = option(
        None, "Width of the bilateral kernel in grey levels (0 ... 255). [default: preset]", range=POSITIVE
    )
    crf_bilateral_weight: float | None = option(
        None, "Weight of the bilateral kernel. [default: preset]", range=NOT_NEGATIVE
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
        None, "Processes on the CPU, one thread each. [default: one a core]", range=NOT_NEGATIVE
    )


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
        None, "timm encoder. [default: the backbone of --init, else vit_base_patch16_224 or resnet50]"
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
        help="Run folder of `stcl segtrain`, or one of its checkpoints.", short="-m", path=True, metavar="SEG"
    )
    output: str = output_option("Folder for the masks.")
    overlays: str | None = overlays_option()
    list: str | None = list_option()
    scales: tuple[float, ...] = option((1.0,), "Scales whose scores are averaged.", multiple=True, range=POSITIVE)
    flip: bool = option(True, "Average with the mirror image.")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Folder):
    """`stcl export`: masks -> the format of another tool."""

    masks: str = option(help="Folder of masks.", positional=True, path=True)
    to: str = option(
        help="coco: instances JSON with RLE; yolo: Ultralytics polygons; ultralytics-semantic: PNGs and data.yaml; "
        "cvat: 'Segmentation mask 1.1' zip; voc: SegmentationClass and ImageSets; npy: arrays.",
        choices=("coco", "yolo", "ultralytics-semantic", "cvat", "voc", "npy"),
    )
    output: str = output_option("Folder to write.")
    images: str | None = option(
        None,
        "The photos: a folder, a list file, or -. Their sizes are checked; yolo, ultralytics-semantic and voc copy "
        "them, coco takes their file names. [default: masks only; coco says .jpg]",
        path=True,
    )
    classes: str | None = option(
        None, "Text file of class names. [default: classes.txt beside the masks]", path=True, metavar="FILE"
    )


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """`stcl eval`: masks (or CAM files) and true masks -> mIoU."""

    predictions: str = option(
        help="Folder of masks, or of CAM files (then the best background score is searched).",
        positional=True,
        path=True,
    )
    truth: str = option(help="Folder of true masks with the same names; 255 is left out.", path=True, metavar="DIR")
    list: str | None = list_option()
    classes: str | None = option(
        None, "Text file of class names. [default: classes.txt of either folder]", path=True, metavar="FILE"
    )
    ignore_predictions: bool = option(False, "Leave out pixels predicted as 255 instead of counting them as errors.")


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
class ReportConfig:
    """`stcl report`: output folders -> one page to look through."""

    folders: tuple[str, ...] = option(help="Output folders of stcl.", positional=True, multiple=True)
    output: str = option("report.html", "File to write.", short="-o", path=True, metavar="FILE")
    images: str | None = option(
        None, "The photos: a folder, a list file, or -. [default: as config.json of the folders says]", path=True
    )
    list: str | None = list_option()
    truth: str | None = option(
        None, "Folder of true masks, only to measure with: IoU, confusion, worst photos.", path=True, metavar="DIR"
    )
    photos: int = option(8, "Photos to show of each kind: worst or most uncertain, and sampled.", range=COUNT)
    seed: int = option(0, "Fixes which photos are sampled.", range=NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True)
class DemoConfig(Folder):
    """`stcl demo`: a drawn scene set, the whole chain on it, and pictures of what came out."""

    output: str = option("stcl-demo", "Folder to write.", short="-o", path=True, metavar="DIR")
    device: str = option("cpu", "auto, cpu, cuda or cuda:N.")
    seed: int = option(0, "Fixes the scenes and every random choice.", range=NOT_NEGATIVE)
