"""From the CAMs of a batch of photos to label maps, by the steps of `stcl refine --method`.

From coarse to fine: `affinity` walks from patch to patch, `par` from pixel to pixel, then the background gets its score
and `crf` weighs the whole photo. Each step is a pure function; a method names the ones that are taken.

Shapes: K labels of a photo, S background scores, H x W pixels of the (reduced) photo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stcl_cli.cams import between_is_ignored, with_background
from stcl_cli.config import RefineConfig
from stcl_cli.formats.cams import CamFile
from stcl_cli.refine import crf, pydensecrf_backend
from stcl_cli.refine.par import pixel_adaptive_refine
from stcl_cli.refine.presets import CRF_PRESETS, CrfParams
from stcl_cli.refine.walk import random_walk
from stcl_cli.strips import argmax_at_size

DenseCrf = Callable[[Sequence[Tensor], Sequence[np.ndarray], CrfParams], list[Tensor]]


def refine_masks(
    cams: Sequence[CamFile], photos: Sequence[np.ndarray], config: RefineConfig, device: torch.device
) -> list[np.ndarray]:
    """Label maps (uint8, each at its CAM's own photo size); photos are uint8 RGB, possibly reduced."""
    labelled = [(cam, photo) for cam, photo in zip(cams, photos, strict=True) if cam.labels]
    refined = iter(_refine(*zip(*labelled, strict=True), config, device) if labelled else ())
    return [next(refined) if cam.labels else np.zeros(cam.size, np.uint8) for cam in cams]


def _refine(
    cams: Sequence[CamFile], photos: Sequence[np.ndarray], config: RefineConfig, device: torch.device
) -> list[np.ndarray]:
    steps = config.method.split(",")
    maps = [torch.from_numpy(cam.cam_KHW).to(device) for cam in cams]
    if "affinity" in steps:
        maps = [_walk(m, cam, config) for m, cam in zip(maps, cams, strict=True)]
    maps = [_resize(m, photo.shape[:2]) for m, photo in zip(maps, photos, strict=True)]
    if "par" in steps:
        maps = [_par(m, photo) for m, photo in zip(maps, photos, strict=True)]
    scores = [with_background(m, config.background) for m in maps]
    if "crf" in steps:
        scores = dense_crf_of(config.backend)(scores, photos, crf_params(config))
    return [_labels(score, cam) for score, cam in zip(scores, cams, strict=True)]


def crf_params(config: RefineConfig) -> CrfParams:
    """The preset with the numbers that were given in place of its own."""
    preset = CRF_PRESETS[config.crf_preset]
    given = {name: getattr(config, f"crf_{name}") for name in vars(preset)}
    return replace(preset, **{name: value for name, value in given.items() if value is not None})


def dense_crf_of(backend: str) -> DenseCrf:
    """The function that computes the CRF. StclError if its package is not installed."""
    if backend == "torch":
        return crf.dense_crf
    pydensecrf_backend.require()
    return pydensecrf_backend.dense_crf


def _walk(maps_Khw: Tensor, cam: CamFile, config: RefineConfig) -> Tensor:
    index, similarity = (torch.from_numpy(array).to(maps_Khw.device) for array in cam.affinity)
    on_patches = F.adaptive_avg_pool2d(maps_Khw, index.shape[:2])
    walked = random_walk(on_patches, index, similarity, config.walk_steps, config.walk_sharpness)
    return walked / walked.amax((1, 2), keepdim=True).clamp_min(1e-5)


def _par(maps_KHW: Tensor, photo_HW3: np.ndarray) -> Tensor:
    image_3HW = torch.from_numpy(photo_HW3).to(maps_KHW.device).permute(2, 0, 1)
    return pixel_adaptive_refine(maps_KHW[None], image_3HW[None])[0]


def _resize(maps_Khw: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps_Khw[None], size=size, mode="bilinear", align_corners=False)[0]


def _labels(scores_SKHW: Tensor, cam: CamFile) -> np.ndarray:
    """The best label at the photo's own size; what lies between a low and a high background score is ignored."""
    value = np.array([0, *(label + 1 for label in cam.labels)], np.uint8)  # slot -> value in the mask
    sets = [value[argmax_at_size(score.cpu().numpy(), cam.size)] for score in scores_SKHW]
    return between_is_ignored(sets[0], sets[-1])
