"""`stcl refine`: CAM files and photos -> masks that follow the photos' edges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from stcl_cli.cams import between_is_ignored, with_background
from stcl_cli.config import RefineConfig
from stcl_cli.console import meter, say
from stcl_cli.data.photos import Photo, list_photos, read_photo
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats.cams import CamFile, read_cam
from stcl_cli.formats.classes import find_classes
from stcl_cli.formats.files import output_path, shown
from stcl_cli.formats.masks import write_mask
from stcl_cli.inference import argmax_at_size
from stcl_cli.refine.crf import dense_crf
from stcl_cli.refine.par import pixel_adaptive_refine
from stcl_cli.refine.presets import CRF_PRESETS
from stcl_cli.runtime import cores, pick_device
from stcl_cli.stages.output import Result, open_folder

CUDA_BATCH = 16  # photos refined together on a GPU; a core takes one at a time

Job = tuple[Photo, Path]  # photo, its CAM file


def run(config: RefineConfig) -> Result:
    """Refine. Raises StclError."""
    device = pick_device(config.device)
    if len(config.background) > 2 or not all(0 <= score <= 1 for score in config.background):
        raise StclError("--background: give one score, or two (low and high), each between 0 and 1")
    cams = Path(config.cams)
    photos, skipped = list_photos(config.images)
    jobs = [(photo, path) for photo in photos if (path := output_path(cams, photo.name, ".safetensors")).is_file()]
    if not jobs:
        raise StclError(f"{shown(cams)}: holds no CAM file for any photo in {config.images}; run stcl cam first")
    orphans = _cams_without_photo(cams, jobs)
    folder, failures = open_folder(config, "refine", find_classes(None, cams))
    for name, reason in skipped + orphans:
        failures.add(name, reason)
    todo = [job for job in jobs if not output_path(folder, job[0].name, ".png").exists()]
    on_cpu = device.type == "cpu"
    work = _Work(config, device, folder, todo, 1 if on_cpu else CUDA_BATCH)
    workers = min(config.workers or cores(), len(todo)) if on_cpu else 0
    with meter("refine", len(jobs), len(jobs) - len(todo)) as gauge:
        # A DataLoader gives what is wanted here: one process a core with one thread each, results in order, bounded.
        for results in DataLoader(work, batch_size=None, num_workers=workers if workers > 1 else 0):
            for name, reason in results:
                if reason:
                    failures.add(name, reason)
            gauge.advance(len(results))
    say(f"{len(jobs) - len(failures) + len(orphans)} masks in {folder}")
    say(f"next: stcl segtrain {config.images} --masks {folder} -o SEG")
    return Result(skipped=len(failures))


def _cams_without_photo(cams: Path, jobs: Sequence[Job]) -> list[tuple[str, str]]:
    known = {path for _, path in jobs}
    return [
        (path.relative_to(cams).with_suffix("").as_posix(), f"{shown(path)}: there is no photo of this name")
        for path in sorted(cams.rglob("*.safetensors"))
        if path not in known and not path.name.startswith(".")
    ]


class _Work(Dataset):
    """An item is a batch: read, refined and written; it comes back as (name, why it failed or '')."""

    def __init__(
        self, config: RefineConfig, device: torch.device, folder: Path, jobs: Sequence[Job], batch: int
    ) -> None:
        self.config, self.device, self.folder = config, device, folder
        self.batches = [jobs[start : start + batch] for start in range(0, len(jobs), batch)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[tuple[str, str]]:
        results, names, cams, photos = [], [], [], []
        for photo, path in self.batches[index]:
            try:
                cam = read_cam(path)
                pixels = read_photo(photo.path, self.config.max_side)
                if abs(cam.size[0] * pixels.shape[1] / (cam.size[1] * pixels.shape[0]) - 1) > 0.05:
                    raise PhotoError(f"{shown(path)}: is of a photo of another shape; run stcl cam again")
                names.append(photo.name)
                cams.append(cam)
                photos.append(pixels)
                results.append((photo.name, ""))
            except PhotoError as error:
                results.append((photo.name, str(error)))
        for name, mask in zip(names, refine_masks(cams, photos, self.config, self.device), strict=True):
            write_mask(output_path(self.folder, name, ".png"), mask)
        return results


def refine_masks(
    cams: Sequence[CamFile], photos: Sequence[np.ndarray], config: RefineConfig, device: torch.device
) -> list[np.ndarray]:
    """Label maps (uint8, at each CAM's own photo size) of a batch; photos are uint8 RGB, possibly reduced."""
    maps = [_maps_at(cam, photo.shape[:2]).to(device) for cam, photo in zip(cams, photos, strict=True)]
    if config.method == "par":
        images = [torch.from_numpy(photo).to(device).permute(2, 0, 1)[None] for photo in photos]
        maps = [pixel_adaptive_refine(m[None], image)[0] for m, image in zip(maps, images, strict=True)]
    scores = [with_background(m, config.background) for m in maps]
    if config.method == "crf" and scores:
        scores = dense_crf(scores, photos, CRF_PRESETS[config.crf_preset])
    masks = []
    for cam, score_SKHW in zip(cams, scores, strict=True):
        value = np.array([0, *(label + 1 for label in cam.labels)], np.uint8)  # slot -> value in the mask
        sets = [value[argmax_at_size(score.cpu().numpy(), cam.size)] for score in score_SKHW]
        masks.append(between_is_ignored(sets[0], sets[-1]))
    return masks


def _maps_at(cam: CamFile, size: tuple[int, int]) -> torch.Tensor:
    """CAMs (K,H,W) at the working size, float32."""
    maps = [cv2.resize(m, size[::-1], interpolation=cv2.INTER_LINEAR) for m in cam.cam_KHW]
    return torch.from_numpy(np.stack(maps)) if maps else torch.zeros(0, *size)
