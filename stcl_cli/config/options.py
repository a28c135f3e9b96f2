"""What describes an option: a dataclass field with its default, help and range; and those that many commands share."""

from __future__ import annotations

from dataclasses import MISSING, field
from typing import Any

COUNT = {"min": 1}
NOT_NEGATIVE = {"min": 0}
POSITIVE = {"min": 0, "min_open": True}
SHARE = {"min": 0, "max": 1}
WITHIN_FLOAT = {"max": 1e6}  # what float32 can square, multiply and add

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
        help="Folder of photos (searched recursively), text file with one path a line, or - for stdin.",
        positional=True,
        path=True,
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
