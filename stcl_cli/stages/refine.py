"""`stcl refine`: CAM files, or masks, and photos -> masks that follow the photos' edges."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from stcl_cli.comparing import labels_among
from stcl_cli.config import RefineConfig
from stcl_cli.console import meter
from stcl_cli.data.outputs import match_outputs
from stcl_cli.data.photo_masks import read_photo_mask
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.data.pixels import photo_size, read_photo
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats.cams import CamFile, read_cam
from stcl_cli.formats.classes import find_classes
from stcl_cli.formats.files import shown
from stcl_cli.formats.masks import read_mask
from stcl_cli.formats.runs import made_by_stcl, read_config
from stcl_cli.refine.chain import HardLabels, dense_crf_of, refine_masks
from stcl_cli.runtime import cores, pick_device
from stcl_cli.stages.output import Done, MaskFolder, Outcomes, Result, finish, nobody, skip
from stcl_cli.threads import DECODERS, thread_pool
from stcl_cli.watch import Readers
from stcl_cli.within_memory import CPU, if_it_fits, too_large

NO_AFFINITY_IN_MASKS = "knows nothing of patches that are alike; give --method crf, or another without affinity"
NO_AFFINITY = "holds no affinity of patches; make it with stcl cam --affinity, or give a --method without affinity"
SLOWEST = 7200.0  # seconds for a batch, which is not only read but computed
CUDA_BATCH = 16  # photos refined together on a GPU; a core takes one at a time

Job = tuple[Photo, Path]  # photo, its CAM file or mask
Outcome = tuple[Photo, dict[str, Any] | PhotoError]  # the item for Done, or why there is none


def run(config: RefineConfig, done: Done = nobody) -> Result:
    """Refine. Raises StclError."""
    device = CPU if config.backend == "pydensecrf" else pick_device(config.device)
    if len(config.background) > 2 or not all(0 <= score <= 1 for score in config.background):
        raise StclError("--background: give one score, or two (low and high), each between 0 and 1")
    config = replace(config, background=tuple(sorted(config.background)))
    dense_crf_of(config.backend)  # says now, not in a worker, if its package is missing
    cams = Path(config.cams)
    photos, skipped = list_photos(config.images)
    files = match_outputs(cams, ".safetensors", photos)
    if not files.by_photo and not files.orphans:  # no CAM file at all
        files = match_outputs(cams, ".png", photos)
    jobs = [(photo, files.by_photo[photo.name]) for photo in photos if photo.name in files.by_photo]
    if not jobs:
        raise StclError(
            f"{shown(cams)}: holds no CAM file or mask for any photo in {config.images}; run stcl cam first"
        )
    _look_for_affinity(jobs[0][1], config.method)
    classes = find_classes(None, cams)
    folder = MaskFolder(config, "refine", classes)
    mine = folder.failures.shard.mine
    jobs = [(photo, path) for photo, path in jobs if mine(photo.name)]
    skipped = [(name, reason) for name, reason in skipped + files.orphans if mine(name)]
    skip(folder.failures, skipped)
    todo = [job for job in jobs if not folder.has(job[0].name)]
    on_cpu = device.type == "cpu"
    work = _Work(config, device, folder, classes, todo, 1 if on_cpu else CUDA_BATCH)
    workers = min(cores() if config.workers is None else config.workers, len(todo)) if on_cpu else 0
    workers = workers if workers > 1 else 0
    readers = Readers(workers)
    # A DataLoader gives what is wanted here: one process a core with one thread each, results in order, bounded.
    loader = DataLoader(work, batch_size=None, num_workers=workers, worker_init_fn=readers.start)
    results = Outcomes(folder.failures, done)
    with meter("refine", len(jobs), len(jobs) - len(todo)) as gauge:
        for outcomes in readers.batches(loader, SLOWEST):
            for photo, outcome in outcomes:
                results.add(photo, outcome)
            gauge.advance(len(outcomes))
    then = ("segtrain", config.images, "--masks", folder.path, *_init(cams), "-o", "SEG")
    return finish(folder.path, results, len(jobs) + len(skipped), "masks", then)


def _init(cams: Path) -> tuple[str, ...]:
    """The option with which segtrain starts from the run that CAMs of stcl come from; () for all else."""
    command, fields = read_config(cams) if made_by_stcl(cams) else ("", {})
    return ("--init", fields["model"]) if command == "cam" else ()


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


class _Work(Dataset):
    """An item is a batch: read, refined and written."""

    def __init__(
        self,
        config: RefineConfig,
        device: torch.device,
        folder: MaskFolder,
        classes: tuple[str, ...],
        jobs: Sequence[Job],
        batch: int,
    ) -> None:
        self.config, self.device, self.folder, self.classes = config, device, folder, classes
        self.batches = [jobs[start : start + batch] for start in range(0, len(jobs), batch)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[Outcome]:
        jobs = self.batches[index]
        # A GPU's batch is read and written by threads; a core that is one of many has a single photo.
        with thread_pool(DECODERS) if len(jobs) > 1 else nullcontext() as pool:
            each = map if pool is None else pool.map
            found = list(each(self._source, jobs))
            todo = [source for source in found if isinstance(source, tuple)]
            sources, pixels = [source for source, _ in todo], [pixels for _, pixels in todo]
            refined = iter(refine_what_fits(sources, pixels, self.config, self.device))
            masks = [next(refined) if isinstance(source, tuple) else source for source in found]
            return list(each(self._outcome, [photo for photo, _ in jobs], masks))

    def _source(self, job: Job) -> tuple[CamFile | HardLabels, np.ndarray] | np.ndarray | PhotoError:
        """What to refine; or the mask, where that is there and its overlay lacks; or why there is nothing."""
        photo, path = job
        try:
            if os.path.isfile(self.folder.mask_path(photo.name)):
                return read_mask(self.folder.mask_path(photo.name))
            return self._read(photo, path)
        except PhotoError as error:
            return error

    def _outcome(self, photo: Photo, mask: np.ndarray | PhotoError | None) -> Outcome:
        if isinstance(mask, PhotoError):
            return photo, mask
        try:
            return photo, too_large(photo.path) if mask is None else self.folder.write(photo, mask)
        except PhotoError as error:
            return photo, error

    def _read(self, photo: Photo, path: Path) -> tuple[CamFile | HardLabels, np.ndarray]:
        """The CAMs, or the mask, and the (reduced) photo. PhotoError if they do not go together."""
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


def refine_what_fits(
    sources: Sequence[CamFile | HardLabels], photos: Sequence[np.ndarray], config: RefineConfig, device: torch.device
) -> list[np.ndarray | None]:
    """`refine_masks`; where there is too little memory half of them at a time, then on the CPU, then None."""
    masks = if_it_fits(lambda: refine_masks(sources, photos, config, device))
    if masks is not None:
        return masks
    if len(sources) > 1:
        half = len(sources) // 2
        parts = (slice(half), slice(half, None))
        return [mask for part in parts for mask in refine_what_fits(sources[part], photos[part], config, device)]
    return [None] if device.type == "cpu" else refine_what_fits(sources, photos, config, CPU)
