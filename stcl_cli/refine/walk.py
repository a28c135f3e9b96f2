"""Affinity random walk: scores spread over patches that look alike to the network, up to the objects' edges.

Source: Ahn and Kwak, "Learning Pixel-level Semantic Affinity" (PSA, CVPR 2018), section 3.3, T = D^-1 A^beta and
M <- T^steps M, A between patches near each other, here of cosines of patch tokens in place of a trained affinity. Ours:
the walk is `steps` sparse products, where common code squares the dense N x N matrix.

Shapes: h x w patches, N = h * w, J = (2 radius + 1)^2 patches around each, row by row, K maps.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from stcl_cli.refine.lattice import Bags


def local_affinity(tokens_ND: Tensor, grid: tuple[int, int], radius: int = 2) -> Tensor:
    """Cosines of each patch to those around it and itself, (h, w, J) float32; negative ones, and beyond the edge, 0.

    grid: (h, w). Patches far away are left out not for speed only: a walk over the most similar ones anywhere in the
    photo went from one object to the next, and lost on photos of several.
    """
    h, w = grid
    tokens_Dhw = F.normalize(tokens_ND.float(), dim=1).t().reshape(-1, h, w)
    padded, side = F.pad(tokens_Dhw, (radius,) * 4), 2 * radius + 1
    around = [padded[:, y : y + h, x : x + w] for y in range(side) for x in range(side)]
    return torch.stack([(tokens_Dhw * near).sum(0) for near in around], 2).clamp_(0, 1)


@torch.no_grad()
def random_walk(cams_Khw: Tensor, similarity_hwJ: Tensor, steps: int = 16, sharpness: float = 16.0) -> Tensor:
    """Activations (K, h, w) float32 after `steps` steps; in each a patch becomes the mean of its neighbours.

    cams_Khw: at the grid of the affinity, on the same device. similarity_hwJ: of `local_affinity`.
    sharpness: beta, the power of the similarities; more keeps to the most similar. Sums over labels are kept, peaks get
    lower: normalise again where a threshold follows.
    """
    h, w, J = similarity_hwJ.shape
    if cams_Khw.shape[1:] != (h, w):
        raise ValueError(f"activations {tuple(cams_Khw.shape)} are not on the affinity's {h} x {w} patches")
    weight_NJ = similarity_hwJ.float().pow(sharpness).reshape(-1, J)
    weight_NJ /= weight_NJ.sum(1, keepdim=True).clamp_(min=1e-12)
    index_NJ = _around(h, w, math.isqrt(J) // 2, weight_NJ.device)
    start = torch.arange(0, h * w * J, J, dtype=torch.int32, device=weight_NJ.device)
    step = Bags(index_NJ.flatten(), start, weight_NJ.flatten())
    x_NK = cams_Khw.float().flatten(1).t().contiguous()
    for _ in range(steps):
        x_NK = step(x_NK)
    return x_NK.t().reshape(cams_Khw.shape)


@lru_cache(maxsize=4)  # photos of one size often come together
def _around(h: int, w: int, radius: int, device: torch.device) -> Tensor:
    """Places (N, J) int32 of the patches around each; beyond the edge the patch itself stands in."""
    place = torch.arange(h * w, dtype=torch.int32, device=device)[:, None]
    step = torch.arange(-radius, radius + 1, dtype=torch.int32, device=device)
    row, column = place // w + step.repeat_interleave(len(step)), place % w + step.repeat(len(step))
    inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
    return torch.where(inside, row * w + column, place)
