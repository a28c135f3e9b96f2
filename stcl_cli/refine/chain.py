"""From the CAMs of a batch of photos, or from masks, to label maps, by the steps of `stcl refine --method`.

From coarse to fine: the labels and background get scores, `affinity` lets them walk from patch to patch, `par` from
pixel to pixel, and `crf` weighs the whole photo. Each step is a pure function; a method names the ones that are taken.

Shapes: K labels of a photo with background, S background scores, H x W pixels of the (reduced) photo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stcl_cli.cams import best_labels, between_is_ignored, with_background
from stcl_cli.config import RefineConfig
from stcl_cli.formats.cams import CamFile
from stcl_cli.formats.masks import IGNORE
from stcl_cli.refine import crf, pydensecrf_backend
from stcl_cli.refine.crf import probs_from_labels
from stcl_cli.refine.par import pixel_adaptive_refine
from stcl_cli.refine.presets import CRF_PRESETS, CrfParams
from stcl_cli.refine.walk import random_walk
from stcl_cli.runtime.device import upload
from stcl_cli.strips import argmax_at_size

DenseCrf = Callable[[Sequence[Tensor], Sequence[np.ndarray], CrfParams], list[Tensor]]


@dataclass(frozen=True, eq=False)
class HardLabels:
    """A mask in place of CAMs: uint8 class indices at its (reduced) photo's size; and the (H, W) of the photo."""

    mask_HW: np.ndarray
    size: tuple[int, int]


def refine_scores(
    sources: Sequence[CamFile | HardLabels], photos: Sequence[np.ndarray], config: RefineConfig, device: torch.device
) -> list[Tensor | None]:
    """Refined scores (S, K, H, W) of each photo's labels; None where there are less than two to weigh.

    Photos are uint8 RGB, possibly reduced; a batch of any sizes. A mask that no step fills keeps what it leaves open,
    so there one label is enough.
    """
    values = [_values(source) for source in sources]
    fewest = [1 if config.method == "none" and isinstance(source, HardLabels) else 2 for source in sources]
    known = [i for i, value in enumerate(values) if len(value) >= fewest[i]]
    scores = [_scores(sources[i], values[i], photos[i].shape[:2], config, device) for i in known]
    photos = [photos[i] for i in known]
    steps = config.method.split(",")
    if "par" in steps:
        scores = _par(scores, photos)
    if "crf" in steps and known:
        scores = dense_crf_of(config.backend)(scores, photos, crf_params(config))
    found: list[Tensor | None] = [None] * len(sources)
    for i, score in zip(known, scores, strict=True):
        found[i] = score
    return found


def smallest(scores_SKHW: Tensor, source: CamFile | HardLabels) -> Tensor:
    """What `mask_of` needs: of CAMs of a photo that was not reduced the best label's slot, uint8 (S, H, W), will do."""
    if isinstance(source, HardLabels) or scores_SKHW.shape[-2:] != source.size:
        return scores_SKHW
    return torch.stack([best_labels(score_KHW) for score_KHW in scores_SKHW])


def mask_of(scores: np.ndarray | None, source: CamFile | HardLabels) -> np.ndarray:
    """The label map, uint8 of the photo's own size: where a low and a high background score differ, 255."""
    masks = masks_of(scores, source)
    return between_is_ignored(masks[0], masks[-1])


def masks_of(scores: np.ndarray | None, source: CamFile | HardLabels) -> list[np.ndarray]:
    """The best label at the photo's own size, by each set of scores, (S, K, H, W) or as `smallest` gives them."""
    values = _values(source)
    if scores is None:
        return [np.full(source.size, [*values, IGNORE][0], np.uint8)]
    masks = [values[score if score.ndim == 2 else argmax_at_size(score, source.size)] for score in scores]
    if isinstance(source, HardLabels):
        for mask_HW, score in zip(masks, scores, strict=True):
            mask_HW[_undecided(score, source)] = IGNORE
    return masks


def _undecided(scores_KHW: np.ndarray, source: HardLabels) -> np.ndarray:
    """Where the mask says nothing and no step has preferred a label to another: bool, at the photo's own size."""
    equal_HW = (scores_KHW.max(0) - scores_KHW.min(0) < 1e-6) & (source.mask_HW == IGNORE)
    return cv2.resize(equal_HW.astype(np.uint8), source.size[::-1], interpolation=cv2.INTER_NEAREST_EXACT) > 0


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


def _values(source: CamFile | HardLabels) -> np.ndarray:
    """The values in a mask that the labels of a source stand for, ascending; none for a mask that knows nothing."""
    if isinstance(source, CamFile):
        return np.array([0, *(label + 1 for label in source.labels)], np.uint8)
    return np.setdiff1d(source.mask_HW, IGNORE)


def _scores(
    source: CamFile | HardLabels, values: np.ndarray, size: tuple[int, int], config: RefineConfig, device: torch.device
) -> Tensor:
    """(S, K, H, W) at the photo's size, summing to one over labels; a mask has one set."""
    if isinstance(source, HardLabels):
        slot_of = np.full(256, IGNORE, np.uint8)
        slot_of[values] = np.arange(len(values))
        labels_HW = upload(torch.from_numpy(slot_of[source.mask_HW]), device)
        return probs_from_labels(labels_HW, len(values), config.confidence, IGNORE)[None]
    maps = upload(torch.from_numpy(source.cam_KHW), device)
    if "affinity" not in config.method:
        return with_background(_resize(maps, size), config.background)
    similarity = upload(torch.from_numpy(source.affinity_hwJ), device)
    on_patches = with_background(_resize(maps, similarity.shape[:2]), config.background)
    walked = random_walk(on_patches.flatten(0, 1), similarity, config.walk_steps, config.walk_sharpness)
    return _resize(walked, size).view(*on_patches.shape[:2], *size)


def _par(scores: Sequence[Tensor], photos: Sequence[np.ndarray]) -> list[Tensor]:
    """Photos of one size and number of labels together: a launch for all, where a GPU takes many."""
    alike: dict[torch.Size, list[int]] = {}
    for i, score in enumerate(scores):
        alike.setdefault(score.shape, []).append(i)
    found = list(scores)
    for together in alike.values():
        scores_BSKHW = torch.stack([scores[i] for i in together])
        photos_BHW3 = upload(torch.from_numpy(np.stack([photos[i] for i in together])), scores_BSKHW.device)
        refined = pixel_adaptive_refine(scores_BSKHW.flatten(1, 2), photos_BHW3.permute(0, 3, 1, 2))
        for i, score in zip(together, refined.view_as(scores_BSKHW), strict=True):
            found[i] = score
    return found


def _resize(maps_Khw: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear; the mean over the area where it gets smaller."""
    return F.interpolate(maps_Khw[None], size=tuple(size), mode="bilinear", align_corners=False, antialias=True)[0]
