"""`stcl export`: masks -> the formats of other tools."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import numpy as np

from stcl_cli.config import ExportConfig
from stcl_cli.console import meter, say
from stcl_cli.data.outputs import match_outputs, no_mask, output_files
from stcl_cli.data.photo_masks import read_full_mask
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.export.coco import CocoWriter
from stcl_cli.export.cvat import CvatWriter
from stcl_cli.export.npy import NpyWriter
from stcl_cli.export.voc import VocWriter
from stcl_cli.export.writer import Item, Writer
from stcl_cli.export.yolo import SemanticWriter, YoloWriter
from stcl_cli.formats.classes import find_classes
from stcl_cli.formats.masks import IGNORE
from stcl_cli.formats.runs import Failures
from stcl_cli.stages.output import Done, Result, nobody, open_folder, skip
from stcl_cli.wording import counted, shown

WRITERS: dict[str, type[Writer]] = {
    "coco": CocoWriter,
    "yolo": YoloWriter,
    "ultralytics-semantic": SemanticWriter,
    "cvat": CvatWriter,
    "voc": VocWriter,
    "npy": NpyWriter,
}

Job = tuple[str, Path, Photo | None]  # name, mask, photo


def run(config: ExportConfig, done: Done = nobody) -> Result:
    """Export. Raises StclError."""
    jobs, skipped = _jobs(config)
    classes = find_classes(config.classes, Path(config.masks))
    make = WRITERS[config.to]
    make(Path(config.output), classes)  # for its StclError: a class name that it cannot hold leaves no folder
    folder, _ = open_folder(config, "export", classes)
    failures = Failures(folder)
    skip(failures, skipped)
    written: list[str] = []
    ignored = pixels = 0
    with make(folder, classes) as writer:
        todo = [job for job in jobs if writer.file or not os.path.exists(writer.target(job[0]))]
        with meter("export", len(jobs), len(jobs) - len(todo)) as gauge:
            for name, path, photo in todo:
                try:
                    mask_HW = exportable_mask(name, path, photo, len(classes))
                    writer.write(Item(name, mask_HW, photo))
                except PhotoError as error:
                    skip(failures, [(name, error)])
                else:
                    written.append(name)
                    ignored, pixels = ignored + int((mask_HW == IGNORE).sum()), pixels + mask_HW.size
                    if not writer.file:
                        done({"image": name, "output": writer.target(name)})
                gauge.advance()
        names = sorted({job[0] for job in jobs} - {job[0] for job in todo} | set(written))
        if not names:
            raise StclError(f"{shown(config.masks)}: none of its masks could be exported; see {failures.path}")
        failures.settle()
        writer.finish(names)
    if writer.file:
        done({"images": len(names), "output": writer.file})
    if ignored and not writer.keeps_ignored:
        say(f"{ignored / pixels:.1%} of the pixels are 255 (ignored), which {config.to} cannot say: they are left out")
    say(f"{counted(len(names), 'mask')} as {config.to} in {shown(writer.file or folder)}")
    return Result(skipped=len(failures))


def _jobs(config: ExportConfig) -> tuple[list[Job], list[tuple[str, str]]]:
    """What to export, and (name, reason) of what cannot be. StclError if there is nothing."""
    if config.images is None:
        files = output_files(config.masks, ".png")
        if not files:
            raise StclError(
                f"{shown(config.masks)}: holds no mask (PNG); give the folder of stcl refine or stcl predict"
            )
        return [(name, path, None) for name, path in files.items()], []
    photos, skipped = list_photos(config.images)
    masks = match_outputs(config.masks, ".png", photos)
    jobs = [(photo.name, masks.by_photo[photo.name], photo) for photo in photos if photo.name in masks.by_photo]
    if not jobs:
        raise no_mask(config.masks, config.images)
    if len(jobs) < len(photos):
        say(f"{counted(len(photos) - len(jobs), 'photo')} without a mask in {shown(config.masks)} left out")
    return jobs, skipped + masks.orphans


def exportable_mask(name: str, path: Path, photo: Photo | None, classes: int) -> np.ndarray:
    """The mask (H, W) if other tools can use it.

    Raises:
        PhotoError: unreadable, of another size than its photo, with a value that has no class, or called something that
            the text files of other tools cannot hold.
    """
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in name):
        raise PhotoError(f"{shown(path)}: its name has a control character or is no Unicode; give it another")
    return read_full_mask(path, photo, classes)
