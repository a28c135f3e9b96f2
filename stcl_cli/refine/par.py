"""Pixel-adaptive refinement (PAR): spread each label's probability to neighbours of like colour.

Source: Ru et al., "Learning Affinity from Attention" (AFA, CVPR 2022), section 3.4, as ToCo (CVPR 2023) uses it. For
pixel i and its neighbours j (8 directions, several dilations), sigma the standard deviation over the neighbours of i,

    kappa_ij = softmax_j( -(|I_i - I_j| / (w1 sigma_rgb))^2 ) + w3 softmax_j( -(|P_i - P_j| / (w2 sigma_pos))^2 )

and every iteration sets p_i = sum_j kappa_ij p_j. Ours: kappa is divided by 1 + w3, so that probabilities keep their
sum (as published it grows by 1 % an iteration; the argmax is the same), and neighbours are shifted views of one padded
tensor, a multiply-add each, where common code stacks 48 copies of all labels.

Shapes: B images, K labels, H x W pixels, N = 8 * len(dilations) neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

COLOUR_SCALE, POSITION_SCALE, POSITION_WEIGHT = 0.3, 0.3, 0.01  # w1, w2, w3
STRIP = 2**19  # values a CPU works on at once (2 MB): they stay in its cache for all 48 passes over them


@torch.no_grad()
def pixel_adaptive_refine(
    probs_BKHW: Tensor,
    photos_B3HW: Tensor,
    iterations: int = 10,
    dilations: Sequence[int] = (1, 2, 4, 8, 12, 24),
) -> Tensor:
    """Refine scores of any number of labels along the edges of the photos; no gradient flows through it.

    probs_BKHW: scores; their sum over labels is kept. photos_B3HW: RGB at the same size and on the same device, in any
    scale (0..255, 0..1, normalised by mean and std): colour differences are divided by their local std per channel, so
    a scale or shift of a channel changes nothing. Returns float32 (B, K, H, W).
    """
    if probs_BKHW.shape[0] != photos_B3HW.shape[0] or probs_BKHW.shape[2:] != photos_B3HW.shape[2:]:
        raise ValueError(f"batch or size differ: probs {tuple(probs_BKHW.shape)}, photos {tuple(photos_B3HW.shape)}")
    shifts = [(dy * d, dx * d) for d in dilations for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]
    kappa_BNHW = _affinity(photos_B3HW.float(), shifts)
    probs = probs_BKHW.float()
    for _ in range(iterations):
        padded, refined = _pad(probs, shifts), torch.zeros_like(probs)
        for rows in _strips(probs):
            for n, neighbour in enumerate(_neighbours(padded, shifts, rows)):
                refined[:, :, rows].addcmul_(neighbour, kappa_BNHW[:, n : n + 1, rows])
        probs = refined
    return probs


def _affinity(photos_B3HW: Tensor, shifts: list[tuple[int, int]]) -> Tensor:
    """kappa (B, N, H, W) of the module's docstring; sums to one over N."""
    B, _, H, W = photos_B3HW.shape
    kappa_BNHW = photos_B3HW.new_empty(B, len(shifts), H, W)
    near = _position_term(tuple(shifts), photos_B3HW.device)[:, None, None]
    padded = _pad(photos_B3HW, shifts)
    for rows in _strips(photos_B3HW):
        centre, neighbours = photos_B3HW[:, :, rows], _neighbours(padded, shifts, rows)
        mean, variance, difference = (torch.zeros_like(centre) for _ in range(3))
        for neighbour in neighbours:
            mean += neighbour
        mean /= len(shifts)
        for neighbour in neighbours:
            torch.sub(neighbour, mean, out=difference)
            variance.addcmul_(difference, difference)
        variance /= len(shifts) - 1
        scale = 1 / (COLOUR_SCALE * (variance.sqrt_() + 1e-8))
        kappa = kappa_BNHW[:, :, rows]
        for n, neighbour in enumerate(neighbours):
            torch.sub(neighbour, centre, out=difference).mul_(scale).square_()
            kappa[:, n] = difference.sum(1)
        kappa.div_(-photos_B3HW.shape[1])
        kappa.sub_(kappa.amax(1, keepdim=True)).exp_()
        kappa.div_(kappa.sum(1, keepdim=True)).add_(near, alpha=POSITION_WEIGHT).div_(1 + POSITION_WEIGHT)
    return kappa_BNHW


@lru_cache(maxsize=4)  # a GPU would be waited for each time
def _position_term(shifts: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """softmax over the neighbours of -(distance / (w2 std of distances))^2: the same N numbers for every pixel."""
    distance_N = torch.tensor([(dy * dy + dx * dx) ** 0.5 for dy, dx in shifts])
    return torch.softmax(-((distance_N / (POSITION_SCALE * (distance_N.std() + 1e-8))) ** 2), 0).to(device)


def _pad(x_BCHW: Tensor, shifts: list[tuple[int, int]]) -> Tensor:
    return F.pad(x_BCHW, (max(shifts)[0],) * 4, mode="replicate")


def _neighbours(padded_BCHW: Tensor, shifts: list[tuple[int, int]], rows: slice) -> list[Tensor]:
    """For each shift, a view of the padded tensor that holds the neighbours in that direction of the rows' pixels."""
    reach = max(shifts)[0]
    W = padded_BCHW.shape[3] - 2 * reach
    corners = [(reach + rows.start + dy, reach + dx) for dy, dx in shifts]
    return [padded_BCHW[:, :, y : y + rows.stop - rows.start, x : x + W] for y, x in corners]


def _strips(x_BCHW: Tensor) -> list[slice]:
    """The rows to work on at once: all of them on a GPU, as many as fit the cache on a CPU."""
    B, C, H, W = x_BCHW.shape
    step = max(1, STRIP // (B * C * W)) if x_BCHW.device.type == "cpu" else H
    return [slice(y, min(y + step, H)) for y in range(0, H, step)]
