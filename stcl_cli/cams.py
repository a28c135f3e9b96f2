"""Class activation maps: normalising, labelling, and choosing what to look at. Pure functions, tensors in, tensors out.

Shapes: B images, C classes, K class slots of a batch (the most labels one image has), h x w map size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stcl_cli.formats.masks import IGNORE
from stcl_cli.strips import argmax_at_size

CONTRAST = 6.0  # of CAM values where they become scores


def normalise_cams(cams: Tensor) -> Tensor:
    """Min-max to [0,1], each map on its own (..., h, w); one that is flat becomes zero (ToCo, Ru et al. 2023)."""
    low = cams.amin((-2, -1), keepdim=True)
    high = cams.amax((-2, -1), keepdim=True)
    return (cams - low) / (high - low).clamp_min(1e-5)


def label_slots(labels_BC: Tensor, slots: int | None = None) -> Tensor:
    """Multi-hot labels (B,C) -> class index of each slot (B,K), -1 where an image has fewer than K labels.

    K is `slots`, which no image has more labels than; None: the most that one has. A GPU is waited for then.
    """
    order = labels_BC.argsort(dim=1, descending=True, stable=True)
    if slots is None:
        slots = max(int(labels_BC.sum(1).max()), 1)
    index_BK = order[:, :slots]
    return torch.where(labels_BC.gather(1, index_BK) > 0, index_BK, -1)


def gather_slots(cams_BChw: Tensor, slots_BK: Tensor) -> Tensor:
    """The maps of each image's own labels (B,K,h,w); empty slots are zero."""
    index = slots_BK.clamp_min(0)[:, :, None, None].expand(-1, -1, *cams_BChw.shape[-2:])
    return cams_BChw.gather(1, index) * (slots_BK >= 0)[:, :, None, None]


def label_map(cams_BKhw: Tensor, slots_BK: Tensor, low: float, high: float) -> Tensor:
    """Normalised maps -> label map (B,h,w): 0 background, class index + 1, 255 between the two scores (ToCo).

    From `high` up the strongest class counts, up to `low` background does; what lies between is ignored.
    """
    value, slot = cams_BKhw.max(1)
    classes = slots_BK[:, :, None, None].expand_as(cams_BKhw).gather(1, slot[:, None])[:, 0] + 1
    labels = torch.where(value >= high, classes, IGNORE)
    return torch.where(value <= low, 0, labels)


def with_background(cams_KHW: Tensor, backgrounds: Sequence[float]) -> Tensor:
    """One set of scores for each background score: (S, K + 1, H, W), background first, summing to one over labels.

    A softmax of CONTRAST times the values (ours): to the dense CRF a CAM says as much above the background score as
    below it. As shares of the sum, which is common, a CAM of 0 is the logarithm of nothing, and one of 1 beside a score
    of 0.5 only that of 2: background eats objects away.
    """
    S, (H, W) = len(backgrounds), cams_KHW.shape[-2:]
    background = torch.cat([cams_KHW.new_full((1, 1, H, W), score) for score in backgrounds])  # a GPU need not wait
    return (CONTRAST * torch.cat([background, cams_KHW.expand(S, -1, -1, -1)], 1)).softmax(1)


def between_is_ignored(low_HW: np.ndarray, high_HW: np.ndarray) -> np.ndarray:
    """Label maps from a low and a high background score -> one: what is foreground only at the low score is 255."""
    return np.where(low_HW == high_HW, high_HW, np.where(high_HW == 0, IGNORE, high_HW)).astype(np.uint8)


def best_labels(scores_KHW: Tensor) -> Tensor:
    """The class of every pixel, uint8; the first of equal ones.

    On a CPU a class at a time: argmax over the first axis is far slower there.
    """
    if scores_KHW.is_cuda:
        return scores_KHW.argmax(0).byte()
    return torch.from_numpy(argmax_at_size(scores_KHW.numpy(), tuple(scores_KHW.shape[1:])))


def local_crop_corners(labels_Bhw: Tensor, valid_Bhw: Tensor, window: int, uniform_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Where to cut local crops, in tokens: centred on uncertain or background tokens, half the mass on each.

    `uniform` are random numbers in [0,1), one a crop.

    Returns the upper left token of each crop (B,L,2) and whether it is a positive (B,L): a crop in which under 0.2 of
    the tokens are foreground or uncertain is a negative (ToCo sec. 3.3; half and half is ours: in most photos nearly
    all tokens are background, and a loss without positives is none).
    """
    size = labels_Bhw.shape[-2:]
    background = ((labels_Bhw == 0) & valid_Bhw).flatten(1).float()
    uncertain = ((labels_Bhw == IGNORE) & valid_Bhw).flatten(1).float()
    weight = background / background.sum(1, keepdim=True).clamp_min(1) + uncertain / uncertain.sum(
        1, keepdim=True
    ).clamp_min(1)
    weight = weight + 1e-6  # an image that is all foreground still gives crops
    mass = weight.cumsum(1)
    centre = torch.searchsorted(mass, uniform_BL * mass[:, -1:], right=True).clamp_max(weight.shape[1] - 1)
    row = (centre // size[1] - window // 2).clamp(0, size[0] - window)
    column = (centre % size[1] - window // 2).clamp(0, size[1] - window)
    region = ((labels_Bhw != 0) & valid_Bhw).float()[:, None]
    share = F.avg_pool2d(region, window, stride=1).flatten(1)  # (B, (h-window+1)*(w-window+1))
    positive = share.gather(1, row * (size[1] - window + 1) + column) >= 0.2
    return torch.stack([row, column], -1), positive


def cut_crops(images_B3HW: Tensor, corners_BL2: Tensor, patch: int, window: int) -> Tensor:
    """Crops of window * patch pixels (B,L,3,side,side), cut in one indexing step."""
    steps = torch.arange(window * patch, device=images_B3HW.device)
    rows = (corners_BL2[..., 0, None] * patch + steps)[..., :, None]  # (B,L,side,1)
    columns = (corners_BL2[..., 1, None] * patch + steps)[..., None, :]
    image = torch.arange(len(images_B3HW), device=images_B3HW.device)[:, None, None, None]
    return images_B3HW.permute(0, 2, 3, 1)[image, rows, columns].permute(0, 1, 4, 2, 3)


def shrink(valid_BHW: Tensor, size: tuple[int, int] | list[int] | torch.Size) -> Tensor:
    """bool (B,H,W) -> (B,h,w): whether most of a cell is valid."""
    return F.adaptive_avg_pool2d(valid_BHW[:, None].float(), tuple(size))[:, 0] > 0.5
