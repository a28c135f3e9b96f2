"""What every stage does with its output folder, and what it hands back to the command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from stcl_cli.config import Folder, PredictConfig, RefineConfig, RunConfig, Sharing, Training
from stcl_cli.console import detail, is_verbose, say, warn
from stcl_cli.data.photo_masks import count_values
from stcl_cli.data.photos import Photo
from stcl_cli.data.pixels import read_photo
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats.classes import BACKGROUND, CLASSES, write_classes
from stcl_cli.formats.files import output_path, write_error
from stcl_cli.formats.images import write_jpeg
from stcl_cli.formats.locks import share_folder
from stcl_cli.formats.masks import IGNORE, write_mask
from stcl_cli.formats.photo_labels import PhotoLabels, check_photo_labels
from stcl_cli.formats.runs import (
    ALL,
    CONFIG,
    Failures,
    check_usable,
    open_output,
    read_config,
    read_sources,
    write_config,
)
from stcl_cli.pictures import overlay
from stcl_cli.runtime.launch import Shard, find_shard
from stcl_cli.stages.provenance import check_classes, check_overlays, check_overwrite, check_same, sources_of
from stcl_cli.wording import counted, shown

NAMED = 10  # inputs that are told one by one where there is no failed.jsonl; with --verbose all
OVERLAY_SIDE = 1024  # pixels at most: overlays are to look at

# Called with each finished item, {"image": name, "output": path, ...}, as soon as it is on disk.
Done = Callable[[Mapping[str, Any]], None]


def nobody(item: Mapping[str, Any]) -> None:
    """The Done of a stage that nobody listens to."""


@dataclass(frozen=True)
class Result:
    """`summary` is printed as one JSON line on stdout; `skipped` inputs make the exit code 3.

    `next` is the command that usually follows, as its words: shown on stderr where a command is run on its own.
    """

    summary: dict[str, Any] | None = None
    skipped: int = 0
    next: tuple[str | Path, ...] = ()


def tell_unused(config: Any, names: Iterable[str], why: str) -> None:
    """A warning for each of these options that is not as usual, though nothing comes of it. It may be of --config."""
    for field in fields(config):
        if field.name in names and getattr(config, field.name) != field.default:
            warn(f"--{field.name.replace('_', '-')} is passed over: {why}")


def check_output(config: Training) -> None:
    """StclError if the output folder would be refused for what is in it, told before a download of weights."""
    from stcl_cli.runtime.distributed import rank  # here, because `stcl check` does without torch

    if rank() == 0:
        check_usable(Path(config.output), config.resume or config.overwrite, "-o")


def open_folder(
    config: Folder, command: str, classes: tuple[str, ...], labels: PhotoLabels | None = None
) -> tuple[Path, Shard]:
    """The output folder with config.json and classes.txt in it, and the share of the photos that is this process's.

    Of ranks that train together the first one writes, of shards the first to come.

    Raises:
        StclError: the folder is in use or of another run.
    """
    from stcl_cli.runtime.distributed import rank, wait_for_all  # here, because `stcl check` does without torch

    shard = find_shard(config.shard) if isinstance(config, Sharing) else ALL
    if rank() == 0:
        take_folder(config, command, config.resume, classes, shard, labels)
    wait_for_all()
    return Path(config.output), shard


def take_folder(
    config: Folder | RunConfig,
    command: str,
    resume: bool,
    classes: tuple[str, ...] = (),
    shard: Shard = ALL,
    labels: PhotoLabels | None = None,
) -> Path:
    """The output folder with config.json in it, and classes.txt if there are any.

    Raises:
        StclError: the folder is in use or of another run, or holds what the run needs.
    """
    values = {k: v for k, v in asdict(config).items() if k not in ("resume", "overwrite", "shard")}
    folder = Path(config.output)
    if config.overwrite:
        check_overwrite(folder, command, config)
    sources = sources_of(config, labels)
    alone = open_output(folder, resume, config.overwrite, shard)
    if (folder / CONFIG).is_file():
        check_same(folder, command, values, sources)
        check_classes(folder, classes)
        check_photo_labels(folder, labels or {})
        sources |= read_sources(folder)
    if alone:
        write_config(folder, command, values, sources)
        if classes:
            write_classes(folder / CLASSES, classes)
        share_folder(folder)
    return folder


class Outcomes:
    """What became of each photo in this run: told to `done`, or recorded as skipped."""

    def __init__(self, failures: Failures, done: Done) -> None:
        self.failures, self.done = failures, done
        self.made = self.without_class = self.lost = 0

    def add(self, photo: Photo, outcome: Mapping[str, Any] | PhotoError) -> None:
        """An item for Done, with its `classes`, of masks from CAMs those `lost`, or why there is none."""
        if isinstance(outcome, PhotoError):
            skip(self.failures, [(photo.name, outcome)])
            return
        self.made += 1
        self.without_class += not outcome["classes"]
        self.lost += bool(outcome.get("lost")) and not outcome["classes"]
        self.done(outcome)


def finish(folder: Path, outcomes: Outcomes, wanted: int, what: str, then: tuple[str | Path, ...]) -> Result:
    """Say how many outputs there are, of the `wanted` ones of this process, and how many show no class.

    `what` is the word for one of them.

    Raises:
        StclError: there are none, as all inputs were skipped: nothing can follow.
    """
    failures = outcomes.failures
    failures.settle()
    there = wanted - len(failures)
    text = counted(there, what) + (f" in {folder}" if failures.shard == ALL else f" of this share in {folder}")
    if outcomes.without_class:
        which = "of them" if outcomes.made == there else f"of the {outcomes.made} made now"
        text += f", {outcomes.without_class} {which} without any class"
    say(text)
    if failures.reasons and not there and failures.shard == ALL:  # other shards may have made some
        name, reason = next(iter(failures.reasons.items()))
        raise StclError(
            f"{shown(folder)}: none of {len(failures)} inputs could be used; the first, {shown(name)}: {reason}"
        )
    return Result(skipped=len(failures), next=then)


def skip(failures: Failures, skipped: Iterable[tuple[str, object]]) -> None:
    """Record (name, reason) of inputs that the run goes on without."""
    for name, reason in skipped:
        failures.add(name, reason)
        detail(f"skipped {shown(name)}: {reason}")


class ToldSkipped:
    """Inputs that are left out by a command without failed.jsonl: the first are named on stderr, all with --verbose."""

    def __init__(self, tell: Callable[[str], None] = warn, words: str = "skipped", options: str = "--verbose") -> None:
        self.tell, self.words, self.options, self.count = tell, words, options, 0

    def add(self, what: object) -> None:
        self.count += 1
        (self.tell if self.count <= NAMED else detail)(f"{self.words} {what}")

    def say_how_many(self) -> None:
        if self.count > NAMED and not is_verbose():
            self.tell(f"{self.words} {self.count:,} in all; {self.options} names each")


class MaskFolder:
    """Where `stcl refine` and `stcl predict` put masks and, with --overlays, the overlays."""

    def __init__(
        self,
        config: RefineConfig | PredictConfig,
        command: str,
        classes: tuple[str, ...],
        labels: PhotoLabels | None = None,
    ) -> None:
        """Open both folders. StclError if one is in use."""
        self.names = (BACKGROUND, *classes)
        self.overlays = Path(config.overlays) if config.overlays else None
        if self.overlays and Path(config.output).absolute().is_relative_to(self.overlays.absolute()):
            raise StclError(f"--overlays {shown(self.overlays)}: holds the masks (-o); give it a folder of its own")
        if self.overlays:  # before anything is deleted or made
            may_be_used = config.resume or config.overwrite or find_shard(config.shard) != ALL
            check_usable(self.overlays, may_be_used, "--overlays")
            if config.overwrite:
                check_overwrite(self.overlays, command, config)
            else:
                check_overlays(self.overlays, Path(config.output), command)
        self.path, shard = open_folder(config, command, classes, labels)
        self.failures = Failures(self.path, shard)
        if self.overlays and open_output(self.overlays, config.resume, config.overwrite, shard, "--overlays"):
            write_config(self.overlays, command, read_config(self.path)[1])
            share_folder(self.overlays)

    def mask_path(self, name: str) -> Path:
        return output_path(self.path, name, ".png")

    def overlay_path(self, name: str) -> Path | None:
        return output_path(self.overlays, name, ".jpg") if self.overlays else None

    def has(self, name: str) -> bool:
        """Whether all there is to write for a photo is there."""
        paths = (self.mask_path(name), self.overlay_path(name))
        return all(path is None or os.path.isfile(path) for path in paths)

    def remove(self, name: str) -> None:
        path = self.mask_path(name)
        try:
            if os.path.isfile(path):  # foo.jpg beside a folder foo.png has none
                path.unlink()
        except OSError as error:
            raise write_error(path, error) from error

    def write(self, photo: Photo, mask_HW: np.ndarray) -> dict[str, Any]:
        """Write a mask, unless it is there, and its overlay; returns the item for Done."""
        item = {"image": photo.name, "output": self.mask_path(photo.name)}
        if not os.path.isfile(item["output"]):
            write_mask(item["output"], mask_HW)
        if overlay_path := self.overlay_path(photo.name):
            write_overlay(overlay_path, photo, mask_HW)
            item["overlay"] = overlay_path
        pixels = count_values(mask_HW)
        item["classes"] = [name for name, count in zip(self.names[1:], pixels[1:], strict=False) if count]
        item["ignored"] = round(float(pixels[IGNORE] / mask_HW.size), 4)
        return item


def write_overlay(path: Path, photo: Photo, mask_HW: np.ndarray) -> None:
    """The mask over its photo as a JPEG. PhotoError if the photo cannot be read."""
    pixels_HW3 = read_photo(photo.path, OVERLAY_SIDE)
    mask_HW = cv2.resize(mask_HW, pixels_HW3.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    write_jpeg(path, overlay(pixels_HW3, mask_HW))
