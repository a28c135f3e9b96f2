"""One photo through a network, at several scales with mirror images: for the exports and for measuring in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from stcl_cli.cams import normalise_cams
from stcl_cli.formats.cams import Affinity
from stcl_cli.memory import fuse, memory_maps
from stcl_cli.refine.walk import compact_affinity, token_similarity
from stcl_cli.runtime import Runtime
from stcl_models.memory_bank import MemoryBank
from stcl_models.stcl import Stcl, rescale, resize

CAM_STRIDE = 4  # CAMs are kept at a quarter of the photo: a ViT's maps hold nothing finer


class PhotoCams(NamedTuple):
    """Of all classes of one photo, float32; maps are (C, ceil(H/4), ceil(W/4)) and not normalised."""

    cam_Chw: Tensor
    cam_aux_Chw: Tensor
    cosine_Chw: Tensor | None  # to the memory's prototypes, background first; None without a memory
    probability_C: Tensor


@torch.inference_mode()
def photo_cams(model: Stcl, runtime: Runtime, photo_HW3: np.ndarray, scales: tuple[float, ...]) -> PhotoCams:
    """uint8 RGB -> what a multi-scale pass says of it."""
    images = model.backbone.normalise(_to_batch(photo_HW3, runtime))
    size = tuple(-(-side // CAM_STRIDE) for side in photo_HW3.shape[:2])
    prototypes = None if model.memory is None else model.memory.prototype[None]
    with runtime.autocast():
        cams = model.cam_pass(images, scales, size, prototypes_BRD=prototypes)
    cosine = None if cams.cosine_BRhw is None else cams.cosine_BRhw[0]
    return PhotoCams(
        cams.cam_BChw[0].float(), cams.cam_aux_BChw[0].float(), cosine, cams.logits_BC[0].float().sigmoid()
    )


@torch.inference_mode()
def label_maps(cams: PhotoCams, labels: Sequence[int], bank: MemoryBank | None, memory: float) -> Tensor:
    """Maps (K,h,w) in 0..1 of the classes `labels`: the mean of both classifiers' CAMs, guided by the memory.

    The mean of the last and of the auxiliary CAM is ours: neither is the better one on every data set.
    """
    index = list(labels)
    both = normalise_cams(cams.cam_Chw[index]) + normalise_cams(cams.cam_aux_Chw[index])
    maps = normalise_cams(both)
    if memory and index and bank is not None:
        slots = torch.tensor([index], device=maps.device)
        cosine = cams.cosine_Chw[[0, *(label + 1 for label in index)]]
        remembered, trust = memory_maps(cosine[None], bank.view(), slots)
        maps = fuse(maps[None], remembered, trust, memory)[0]
    return maps


@torch.inference_mode()
def photo_affinity(model: Stcl, runtime: Runtime, photo_HW3: np.ndarray, scale: float) -> Affinity:
    """Which patches of the photo, seen at `scale`, the tokens that patch contrast trained are alike in."""
    images = rescale(model.backbone.normalise(_to_batch(photo_HW3, runtime)), scale, model.backbone.patch_size)
    with runtime.autocast():
        tokens = model.backbone(images)
    index, similarity = compact_affinity(token_similarity(tokens.patch_BND[0]), tokens.grid)
    return Affinity(index.cpu().numpy(), similarity.float().cpu().numpy())


@torch.inference_mode()
def photo_scores(
    model: nn.Module, runtime: Runtime, photo_HW3: np.ndarray, scales: tuple[float, ...], flip: bool
) -> Tensor:
    """uint8 RGB -> mean class probabilities (K,H,W) of a segmentation model, float32."""
    images = model.normalise(_to_batch(photo_HW3, runtime))
    total = 0
    for scale in scales:
        scaled = rescale(images, scale, model.multiple)
        with runtime.autocast():
            scores = model(torch.cat([scaled, scaled.flip(-1)]) if flip else scaled).float()
        if flip:
            scores = (scores[:1] + scores[1:].flip(-1)) / 2
        total = total + resize(scores, photo_HW3.shape[:2]).softmax(1)
    return total[0] / len(scales)


def _to_batch(photo_HW3: np.ndarray, runtime: Runtime) -> Tensor:
    return torch.from_numpy(photo_HW3.transpose(2, 0, 1)[None].copy()).to(runtime.device)
