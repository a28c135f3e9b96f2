"""Affinity random walk: scores spread over patches that look alike to the network, up to the objects' edges.

Source: Ahn and Kwak, "Learning Pixel-level Semantic Affinity" (PSA, CVPR 2018), section 3.3, T = D^-1 A^beta and
M <- T^steps M, A between patches near each other, here of cosines of patch tokens in place of a trained affinity. Ours:
the walk is `steps` sparse products, where common code squares the dense N x N matrix.

Shapes: h x w patches, N = h * w, J = (2 radius + 1)^2 neighbours, K maps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stcl_cli.refine.lattice import Bags


def local_affinity(tokens_ND: Tensor, grid: tuple[int, int], radius: int = 2) -> tuple[Tensor, Tensor]:
    """The patches around each patch, row by row: their places (h, w, J) int32 and cosines (h, w, J) float32.

    Negative cosines become 0; a neighbour beyond the edge is the patch itself, with similarity 0. grid: (h, w). Patches
    far away are left out not for speed only: a walk over the most similar ones anywhere in the photo went from one
    object to the next, and lost on photos of several.
    """
    h, w = grid
    tokens_Dhw = F.normalize(tokens_ND.float(), dim=1).t().reshape(-1, h, w)
    padded, side = F.pad(tokens_Dhw, (radius,) * 4), 2 * radius + 1
    around = [padded[:, y : y + h, x : x + w] for y in range(side) for x in range(side)]
    similarity_hwJ = torch.stack([(tokens_Dhw * near).sum(0) for near in around], 2).clamp_(0, 1)

    place = torch.arange(h * w, dtype=torch.int32, device=tokens_ND.device).view(h, w, 1)
    step = torch.arange(-radius, radius + 1, dtype=torch.int32, device=tokens_ND.device)
    rows, columns = step.repeat_interleave(side), step.repeat(side)
    row, column = place // w + rows, place % w + columns
    inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
    return torch.where(inside, row * w + column, place), similarity_hwJ


@torch.no_grad()
def random_walk(
    cams_Khw: Tensor, index_hwJ: Tensor, similarity_hwJ: Tensor, steps: int = 16, sharpness: float = 16.0
) -> Tensor:
    """Activations (K, h, w) float32 after `steps` steps; in each a patch becomes the mean of its neighbours.

    cams_Khw: at the grid of the affinity, on the same device. index_hwJ, similarity_hwJ: of `local_affinity`,
    or any J patches of each.
    sharpness: beta, the power of the similarities; more keeps to the most similar. Sums over labels are kept, peaks get
    lower: normalise again where a threshold follows.
    """
    h, w, J = index_hwJ.shape
    if cams_Khw.shape[1:] != (h, w):
        raise ValueError(f"activations {tuple(cams_Khw.shape)} are not on the affinity's {h} x {w} patches")
    weight_NJ = similarity_hwJ.float().pow(sharpness).reshape(-1, J)
    weight_NJ /= weight_NJ.sum(1, keepdim=True).clamp_(min=1e-12)
    start = torch.arange(0, h * w * J, J, dtype=torch.int32, device=index_hwJ.device)
    step = Bags(index_hwJ.flatten().int(), start, weight_NJ.flatten())
    x_NK = cams_Khw.float().flatten(1).t().contiguous()
    for _ in range(steps):
        x_NK = step(x_NK)
    return x_NK.t().reshape(cams_Khw.shape)
