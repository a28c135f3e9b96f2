"""Looking at files, measuring and showing them, taking them to other tools: check, export, eval, report."""

from __future__ import annotations

from dataclasses import dataclass

from stcl_cli.config.options import (
    COUNT,
    NOT_NEGATIVE,
    images_argument,
    labels_format_option,
    list_option,
    option,
    output_option,
)
from stcl_cli.config.shared import Folder


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
