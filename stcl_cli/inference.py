"""Photos through a network, at several scales with mirror images: for the exports and for measuring in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stcl_cli.cams import gather_slots, normalise_cams
from stcl_cli.formats.cams import CAM_STRIDE
from stcl_cli.memory import fuse, memory_maps
from stcl_cli.presence import shown_probability
from stcl_cli.refine.walk import local_affinity
from stcl_cli.runtime.device import Runtime, upload
from stcl_models.memory_bank import MemoryBank
from stcl_models.stcl import Stcl, rescale, resize, rounded_size

AFFINITY_SCALE = 2.0


class PhotoCams(NamedTuple):
    """Of all classes of one photo, float32; maps are (C, ceil(H/4), ceil(W/4)) and not normalised."""

    cam_Chw: Tensor
    cam_aux_Chw: Tensor
    memory_Chw: Tensor | None  # products with the memory's discriminants, background first; or None
    probability_C: Tensor
    key_ND: Tensor  # the memory's tokens of the plain view at the largest scale
    key_grid: tuple[int, int]


def network_size(photo_HW3: np.ndarray, multiple: int) -> tuple[int, int]:
    """(H, W) that a photo has in a network whose sides are multiples of a number; those of one size go together."""
    return rounded_size(photo_HW3.shape[:2], 1.0, multiple)


@torch.inference_mode()
def photo_cams(
    model: Stcl, runtime: Runtime, photos: Sequence[np.ndarray], scales: tuple[float, ...]
) -> list[PhotoCams]:
    """What a multi-scale pass says of each photo; they are uint8 RGB (H,W,3) of one `rounded_size` at scale 1."""
    images = model.backbone.normalise(_to_batch(photos, model.backbone.patch_size, runtime))
    size = tuple(-(-side // CAM_STRIDE) for side in images.shape[-2:])
    discriminants = None if model.memory is None else model.memory.discriminant.expand(len(photos), -1, -1)
    with runtime.autocast():
        cams = model.cam_pass(images, scales, size, discriminants_BRD=discriminants)
    probabilities = cams.logits_BC.float().sigmoid()
    maps = [cams.cam_BChw, cams.cam_aux_BChw] + ([] if cams.memory_BRhw is None else [cams.memory_BRhw])
    sizes = [(-(-photo.shape[0] // CAM_STRIDE), -(-photo.shape[1] // CAM_STRIDE)) for photo in photos]
    own = [_at_sizes(m.float(), sizes) for m in maps]
    return [
        PhotoCams(last, aux, memory[0] if memory else None, probabilities[index], cams.key_BNE[index], cams.key_grid)
        for index, (last, aux, *memory) in enumerate(zip(*own, strict=True))
    ]


@torch.inference_mode()
def label_maps(
    cams: Sequence[PhotoCams], labels: Sequence[Sequence[int]], bank: MemoryBank | None, memory: float
) -> list[Tensor]:
    """Maps (K,h,w) in 0..1 of each photo's `labels`: the mean of both classifiers' CAMs, guided by the memory.

    The mean of the last and of the auxiliary CAM is ours: neither is the better one on every data set. The memory's
    maps are probabilities, not stretched to 0..1 as those that teach in training: measured, it makes no difference.
    """
    groups: dict[Any, list[int]] = {}
    for index, cam in enumerate(cams):
        groups.setdefault(_together(cam, index), []).append(index)
    found: list[Tensor | None] = [None] * len(cams)
    for group in groups.values():
        most = max(len(labels[index]) for index in group)
        padded = [[*labels[index], *[-1] * (most - len(labels[index]))] for index in group]
        slots_BK = upload(torch.tensor(padded, dtype=torch.long).view(len(group), most), cams[group[0]].cam_Chw.device)
        last, aux = (torch.stack([cams[index][which] for index in group]) for which in (0, 1))
        maps = normalise_cams(sum(normalise_cams(gather_slots(cam, slots_BK)) for cam in (last, aux)))
        if memory and most and bank is not None:
            score_BRhw = torch.stack([cams[index].memory_Chw for index in group])
            index_BR = F.pad(slots_BK + 1, (1, 0))  # background first
            score_BRhw = score_BRhw.gather(1, index_BR[:, :, None, None].expand(-1, -1, *score_BRhw.shape[2:]))
            remembered, trust = memory_maps(score_BRhw, bank.view(), slots_BK)
            maps = fuse(maps, remembered, trust, memory)
        for index, own in zip(group, maps, strict=True):
            found[index] = own[: len(labels[index])]
    return found


@torch.inference_mode()
def label_probabilities(cams: Sequence[PhotoCams], bank: MemoryBank | None) -> list[Tensor]:
    """How probable it is that each photo shows each class (C), by the classifier and, with a `bank`, the memory."""
    if bank is None:
        return [cam.probability_C for cam in cams]
    view = bank.view()
    return [shown_probability(cam.probability_C, cam.memory_Chw.flatten(1), view) for cam in cams]


def _together(cam: PhotoCams, index: int) -> Any:
    """On a GPU photos of one size go together, with one launch for all; on the CPU each is on its own.

    So its maps are the same there, bit for bit, whatever comes with it.
    """
    return cam.cam_Chw.shape if cam.cam_Chw.is_cuda else index


@torch.inference_mode()
def photo_affinities(model: Stcl, runtime: Runtime, photos: Sequence[np.ndarray]) -> list[Tensor]:
    """How alike the patches of each photo are to those around them (h,w,J), seen at twice its size: where objects end.

    By the memory's tokens, from two thirds of the depth: later ones know classes better, but not where an object ends.
    At the photo's own size a walk over patches only blurs: measured, it lost what it won at twice the size. Photos as
    for `photo_cams`.
    """
    patch = model.backbone.patch_size
    images = rescale(model.backbone.normalise(_to_batch(photos, patch, runtime)), AFFINITY_SCALE, patch)
    with runtime.autocast():
        tokens = model.backbone(images)
    return [local_affinity(key_ND, tokens.grid) for key_ND in tokens.key_BND]


@torch.inference_mode()
def photo_scores(
    model: nn.Module, runtime: Runtime, photos: Sequence[np.ndarray], scales: tuple[float, ...], flip: bool
) -> list[Tensor]:
    """Photos as for `photo_cams` -> mean class probabilities (K,H,W) of a segmentation model, float32, for each."""
    images = model.normalise(_to_batch(photos, model.multiple, runtime))
    sizes = [photo.shape[:2] for photo in photos]
    totals: list[Tensor | int] = [0] * len(photos)
    for scale in scales:
        scaled = rescale(images, scale, model.multiple)
        with runtime.autocast():
            scores = model(torch.cat([scaled, scaled.flip(-1)]) if flip else scaled).float()
        if flip:
            plain, mirror = scores.chunk(2)
            scores = (plain + mirror.flip(-1)) / 2
        found = _at_sizes(scores, sizes, lambda scores_BKHW: scores_BKHW.softmax(1) / len(scales))
        totals = [total + own for total, own in zip(totals, found, strict=True)]
    return totals


def _at_sizes(
    maps_BKhw: Tensor, sizes: Sequence[tuple[int, int]], then: Callable[[Tensor], Tensor] = lambda maps: maps
) -> list[Tensor]:
    """Each photo's maps at its own size; together, where that is one."""
    if len(set(sizes)) == 1:
        return list(then(resize(maps_BKhw, sizes[0])))
    return [then(resize(maps_BKhw[i : i + 1], size))[0] for i, size in enumerate(sizes)]


def _to_batch(photos: Sequence[np.ndarray], multiple: int, runtime: Runtime) -> Tensor:
    """Photos at their network size, 0..255 (B,3,H,W)."""
    images = []
    for photo_HW3 in photos:
        pixels = upload(torch.from_numpy(np.ascontiguousarray(photo_HW3)), runtime.device)
        images.append(rescale(pixels.permute(2, 0, 1)[None].float(), 1.0, multiple))
    return torch.cat(images)
