"""What goes into the memory bank and what it says of a photo. Pure functions, tensors in, tensors out.

All of it is ours, on the paper's idea of a memory that guides the segmentation (STCL, Liang et al. 2026).

Shapes: B images, K label slots, C classes with background, N = h * w patch tokens, E token width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from stcl_models.memory_bank import BankView

PURITY = 4.0  # how much less a region's token counts that is like background
LEAST_PATCHES = 3  # a smaller region is not stored


def discriminants_of(bank: BankView, slots_BK: Tensor) -> Tensor:
    """Background's discriminant and that of each image's labels (B,1+K,E), in the order that memory_maps wants."""
    return bank.discriminant_CE[F.pad(slots_BK + 1, (1, 0))]


def memory_maps(score_BRhw: Tensor, bank: BankView, slots_BK: Tensor) -> tuple[Tensor, Tensor]:
    """Products of patch tokens and `discriminants_of` -> probability maps (B,K,h,w) of each image's own labels.

    A softmax over background and the image's labels. Also returns how far each map is to be trusted (B,K): 0 where the
    memory does not know the class, or background, and where its entries are poor.
    """
    class_BR = F.pad(slots_BK + 1, (1, 0))  # 0 for an empty slot too
    known_C = bank.discriminant_CE.any(1)
    known_BK = known_C[class_BR[:, 1:]] & (slots_BK >= 0) & known_C[0]
    score = score_BRhw + bank.offset_C[class_BR][:, :, None, None]
    own = score[:, 1:].masked_fill(~known_BK[:, :, None, None], -torch.inf)
    probability = torch.cat([score[:, :1], own], 1).softmax(1)[:, 1:]
    return probability, known_BK * bank.trust_C[class_BR[:, 1:]]


def fuse(cam_BKhw: Tensor, memory_BKhw: Tensor, trust_BK: Tensor, weight: float) -> Tensor:
    """(1 - w) * CAM + w * memory map, w = weight * trust: a class that the memory does not know keeps its CAM."""
    return torch.lerp(cam_BKhw, memory_BKhw, weight * trust_BK[:, :, None, None])


def region_masks(
    maps_BKhw: Tensor, slots_BK: Tensor, valid_Bhw: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """Which patches are sure: (B,1+K,N) float, background's region first, then each slot's; and class of each (B,1+K).

    A label's region is where its map is the highest and at least `high`; background's where all are at most `low`.
    Empty slots have class -1 and no region.
    """
    value, slot = maps_BKhw.max(1, keepdim=True)
    slots = torch.arange(maps_BKhw.shape[1], device=slot.device)[:, None, None]
    own = (slot == slots) & (value >= high) & (value > low) & (slots_BK >= 0)[:, :, None, None]
    masks = torch.cat([value <= low, own], 1) & valid_Bhw[:, None]
    classes = torch.where(slots_BK >= 0, slots_BK + 1, -1)
    return masks.flatten(2).float(), torch.cat([torch.zeros_like(classes[:, :1]), classes], 1)


def region_of_patches(masks_BRN: Tensor, classes_BR: Tensor) -> Tensor:
    """The class whose region each patch is in (B,N), -1 in none; of what `region_masks` gives: no regions overlap."""
    inside_BN, region_BN = masks_BRN.max(1)
    return torch.where(inside_BN > 0, classes_BR.gather(1, region_BN), -1)


def region_embeddings(key_BND: Tensor, masks_BRN: Tensor, background_E: Tensor) -> Tensor:
    """Mean of the unit tokens of every region, of unit length (B,R,E); zero for a region without a patch.

    In a label's region a token counts the less, the more it is like background's prototype: (1 - cosine)^PURITY.
    What a class is seen with, such as the water around boats, is in other photos or other parts of the photo known
    as background, and so leaves the class's memory. No gradient goes through these weights.
    """
    with torch.no_grad():
        unlike_BN = (1 - key_BND.float() @ background_E).clamp(1e-7, 1) ** PURITY
        masks_BRN = torch.cat([masks_BRN[:, :1], masks_BRN[:, 1:] * unlike_BN[:, None]], 1)
        # Of a region that is all like background little is left, of which the direction counts: times a power of two,
        # which rounds nothing, lest the squares in its norm vanish.
        masks_BRN = torch.ldexp(masks_BRN, -masks_BRN.amax(2, keepdim=True).frexp().exponent)
    return F.normalize(torch.bmm(masks_BRN, key_BND.float()), dim=-1)


def region_quality(maps_BKhw: Tensor, masks_BRN: Tensor, probability_BK: Tensor) -> Tensor:
    """How sure each region is (B,R): class probability times the mean map; of background one minus the highest map."""
    sure = torch.cat([1 - maps_BKhw.amax(1, keepdim=True), maps_BKhw], 1).flatten(2)
    mean = (sure * masks_BRN).sum(2) / masks_BRN.sum(2).clamp_min(1)
    return mean * torch.cat([torch.ones_like(probability_BK[:, :1]), probability_BK], 1)


def nearest_own_class(cosine_BCN: Tensor, classes_BR: Tensor, known_C: Tensor) -> tuple[Tensor, Tensor]:
    """Of every patch, the nearest prototype among background and its image's labels: class (B,N), and by how much.

    The lead (B,N) is the difference of the two best cosines; 0 where fewer than two of them have a prototype.
    """
    usable_BR = (classes_BR >= 0) & known_C[classes_BR.clamp_min(0)]
    index = classes_BR.clamp_min(0)[:, :, None].expand(-1, -1, cosine_BCN.shape[2])
    own = cosine_BCN.gather(1, index).masked_fill(~usable_BR[:, :, None], -torch.inf)
    best = own.topk(min(2, own.shape[1]), dim=1)
    nearest = classes_BR.gather(1, best.indices[:, 0])
    lead = best.values[:, 0] - best.values[:, -1]
    return nearest, torch.where(lead.isfinite(), lead, 0)
