"""`stcl refine`: CAM files, or masks, and photos -> masks that follow the photos' edges."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from stcl_cli.config import RefineConfig, SegtrainConfig
from stcl_cli.console import meter, warn
from stcl_cli.data.outputs import match_outputs
from stcl_cli.data.photo_masks import read_photo_mask
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.data.pixels import photo_size, read_photo
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.evaluation.comparing import labels_among
from stcl_cli.formats.cams import CamFile, read_cam
from stcl_cli.formats.classes import find_classes
from stcl_cli.formats.masks import read_mask
from stcl_cli.formats.runs import made_by_stcl, read_config
from stcl_cli.refine.chain import HardLabels, dense_crf_of, mask_of, refine_scores, smallest
from stcl_cli.runtime.device import cores, fetch, pick_device
from stcl_cli.runtime.out_of_memory import CPU, Halvings, if_it_fits, too_large, what_fits
from stcl_cli.runtime.pipeline import Pipeline
from stcl_cli.runtime.watch import Readers
from stcl_cli.stages.output import Done, MaskFolder, Outcomes, Result, finish, nobody, skip, tell_unused
from stcl_cli.wording import counted, shown

NO_AFFINITY_IN_MASKS = "knows nothing of patches that are alike; give --method crf, or another without affinity"
NO_AFFINITY = "holds no affinity of patches; make it with stcl cam --affinity, or give a --method without affinity"
SLOWEST = 7200.0  # seconds for a photo, which is not only read but computed

Input = tuple[CamFile | HardLabels, np.ndarray]  # what is refined, and the (reduced) photo
Output = tuple[CamFile | HardLabels, Callable[[], np.ndarray] | None]  # it, and what its mask needs
Outcome = tuple[Photo, dict[str, Any] | PhotoError]  # the item for Done, or why there is none


def run(config: RefineConfig, done: Done = nobody) -> Result:
    """Refine. Raises StclError."""
    device = CPU if config.backend == "pydensecrf" else pick_device(config.device)
    if len(config.background) > 2 or not all(0 <= score <= 1 for score in config.background):
        raise StclError("--background: give one score, or two (low and high), each between 0 and 1")
    _tell_unused(config)
    config = replace(config, background=tuple(sorted(config.background)))
    dense_crf_of(config.backend)  # says now, not in a worker, if its package is missing
    cams = Path(config.cams)
    photos, skipped = list_photos(config.images)
    files = match_outputs(cams, ".safetensors", photos)
    are_cams = bool(files.by_photo or files.orphans)
    if not are_cams:
        files = match_outputs(cams, ".png", photos)
    photos = [photo for photo in photos if photo.name in files.by_photo]
    if not photos:
        raise StclError(
            f"{shown(cams)}: holds no CAM file or mask for any photo in {config.images}; give --images the folder "
            "that they were made of"
        )
    if are_cams:
        tell_unused(config, ["confidence"], "it is of masks, and these are CAMs")
    else:
        tell_unused(config, ["background"], "it is of CAMs, and these are masks")
    _look_for_affinity(files.by_photo[photos[0].name], config.method)
    classes = find_classes(None, cams)
    folder = MaskFolder(config, "refine", classes)
    mine = folder.failures.shard.mine
    photos = [photo for photo in photos if mine(photo.name)]
    skipped = [(name, reason) for name, reason in skipped + files.orphans if mine(name)]
    skip(folder.failures, skipped)
    todo = [photo for photo in photos if not folder.has(photo.name)]
    work = _Work(config, device, folder, classes, files.by_photo)
    outcomes = Outcomes(folder.failures, done)
    with meter("refine", len(photos), len(photos) - len(todo)) as gauge:
        for photo, outcome in _in_processes(work, todo) if device.type == "cpu" else _in_batches(work, todo):
            outcomes.add(photo, outcome)
            gauge.advance()
    if outcomes.lost:
        labelled = counted(outcomes.made - outcomes.without_class + outcomes.lost, "photo")
        warn(
            f"{outcomes.lost:,} of {labelled} with labels have none of them in the mask: try a lower --background, and "
            "look at --overlays"
        )
    then = ("segtrain", config.images, "--masks", folder.path, *_init(cams), "-o", "SEG")
    return finish(folder.path, outcomes, len(photos) + len(skipped), "mask", then)


def _tell_unused(config: RefineConfig) -> None:
    """A warning for each option of what --method leaves out."""
    names = [field.name for field in fields(config)]
    for word, own in (("crf", ("crf_", "backend")), ("affinity", ("walk_",))):
        if word not in config.method.split(","):
            tell_unused(
                config, [name for name in names if name.startswith(own)], f"--method {config.method} is without {word}"
            )


def _in_processes(work: _Work, photos: list[Photo]) -> Iterator[Outcome]:
    """On the CPU: one process a core with one thread each. A DataLoader bounds them and keeps the photos' order."""
    workers = min(cores() if work.config.workers is None else work.config.workers, len(photos))
    readers = Readers(workers if workers > 1 else 0)
    loader = DataLoader(
        photos, batch_size=None, collate_fn=work.whole, num_workers=readers.count, worker_init_fn=readers.start
    )
    return readers.batches(loader, SLOWEST)


def _in_batches(work: _Work, photos: list[Photo]) -> Iterator[Outcome]:
    """On a GPU: photos of any sizes at a time, while others are read and written by threads."""
    pipeline = Pipeline(work.read, work.compute, work.write, _size, work.config.max_side, mixed=True)
    return pipeline.run(photos, work.device, work.config.workers)


def _size(source: Input) -> tuple[int, int]:
    return source[1].shape[:2]


def _init(cams: Path) -> tuple[str, ...]:
    """The options with which segtrain starts from the run that CAMs of stcl come from, and is as long; () for all
    else."""
    command, fields = read_config(cams) if made_by_stcl(cams) else ("", {})
    if command != "cam" or not isinstance(fields.get("model"), str):
        return ()
    model, trained = Path(fields["model"]), {}
    with suppress(StclError):  # a broken config.json of a run is no matter here
        _, trained = read_config(model) if made_by_stcl(model) else ("", {})
    usual = SegtrainConfig(images="", masks="", output="")
    options = ("--init", fields["model"])
    for name in ("crop_size", "iterations"):  # what the machine and its user's time allow
        if trained.get(name, getattr(usual, name)) != getattr(usual, name):
            options += (f"--{name.replace('_', '-')}", str(trained[name]))
    return options


def _look_for_affinity(path: Path, method: str) -> None:
    """StclError if the first file lacks what the method needs: the others will too."""
    if "affinity" not in method:
        return
    if path.suffix == ".png":
        raise StclError(f"{shown(path)}: is a mask, which {NO_AFFINITY_IN_MASKS}")
    try:
        lacks = read_cam(path).affinity_hwJ is None
    except PhotoError:  # skipped in its turn
        return
    if lacks:
        raise StclError(f"{shown(path)}: {NO_AFFINITY}")


@dataclass(frozen=True)
class _Work:
    """What is done with a photo: read, refined, written."""

    config: RefineConfig
    device: torch.device
    folder: MaskFolder
    classes: tuple[str, ...]
    paths: Mapping[str, Path]  # of each photo's CAM file or mask, by the photo's name
    halvings: Halvings = field(default_factory=Halvings)

    def read(self, photo: Photo) -> Input | None:
        """The CAMs, or the mask, and the (reduced) photo; None if what lacks is an overlay. PhotoError if they do not
        go together."""
        if os.path.isfile(self.folder.mask_path(photo.name)):
            return None
        path = self.paths[photo.name]
        cam = read_cam(path) if path.suffix == ".safetensors" else None
        pixels = read_photo(photo.path, self.config.max_side)
        full = photo_size(photo.path)
        if cam is None:
            return HardLabels(read_photo_mask(path, photo, pixels.shape[:2], len(self.classes)), full), pixels
        if cam.size != full:
            height, width = cam.size
            raise PhotoError(
                f"{shown(path)}: is of a photo of {width} x {height}, not of this one; delete it and run stcl cam "
                "--resume"
            )
        if "affinity" in self.config.method and cam.affinity_hwJ is None:
            raise PhotoError(f"{shown(path)}: {NO_AFFINITY}")
        return _named(cam, path, self.classes), pixels

    def compute(self, photos: list[Photo], inputs: list[Input]) -> list[Output | PhotoError]:
        devices = [self.device] if self.device.type == "cpu" else [self.device, CPU]
        found = what_fits([partial(_refine, self.config, device) for device in devices], inputs, self.halvings)
        return [too_large(photo.path) if one is None else one for photo, one in zip(photos, found, strict=True)]

    def write(self, photo: Photo, output: Output | None) -> dict[str, Any]:
        if output is None:
            return self.folder.write(photo, read_mask(self.folder.mask_path(photo.name))) | {"lost": []}
        source, scores = output
        mask_HW = if_it_fits(lambda: mask_of(scores and scores(), source))
        if mask_HW is None:
            raise too_large(photo.path)
        item = self.folder.write(photo, mask_HW)
        given = [source.classes[label] for label in source.labels] if isinstance(source, CamFile) else []
        return item | {"lost": [name for name in given if name not in item["classes"]]}

    def whole(self, photo: Photo) -> Outcome:
        """All of it, for a process that takes one photo after the other."""
        try:
            source = self.read(photo)
            output = None if source is None else self.compute([photo], [source])[0]
            if isinstance(output, PhotoError):
                raise output
            return photo, self.write(photo, output)
        except PhotoError as error:
            return photo, error


def _refine(config: RefineConfig, device: torch.device, inputs: list[Input]) -> list[Output]:
    sources, photos = [source for source, _ in inputs], [pixels for _, pixels in inputs]
    scores = refine_scores(sources, photos, config, device)
    return [
        (source, None if own is None else fetch(smallest(own, source)))
        for source, own in zip(sources, scores, strict=True)
    ]


def _named(cam: CamFile, path: Path, classes: tuple[str, ...]) -> CamFile:
    """CAMs as of a run with these classes. PhotoError if they have a map of another one."""
    if cam.classes == classes:
        return cam
    try:
        labels = labels_among(classes, path, cam)
    except StclError as error:
        raise PhotoError(str(error)) from error
    order = np.argsort(labels)
    return replace(cam, classes=classes, labels=tuple(sorted(labels)), cam_KHW=cam.cam_KHW[order], scores=())
