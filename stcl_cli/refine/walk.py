"""Affinity random walk: activations spread over patches that look alike to the network, so that objects get complete.

Source: Ahn and Kwak, "Learning Pixel-level Semantic Affinity" (PSA, CVPR 2018), section 3.3, T = D^-1 A^beta and
M <- T^steps M, on similarities of patch tokens or on attention, as Ru et al. (AFA, CVPR 2022). Ours: a patch keeps
its most similar patches only, which makes the affinity a small file, and the walk is `steps` sparse products, where
common code squares the dense N x N matrix.

Shapes: h x w patches, N = h * w, J neighbours, K labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stcl_cli.refine.lattice import Bags


def token_similarity(tokens_ND: Tensor) -> Tensor:
    """Cosines (N, N) of patch tokens, negative ones cut to 0."""
    tokens = F.normalize(tokens_ND.float(), dim=1)
    return (tokens @ tokens.t()).clamp_(min=0)


def compact_affinity(similarity_NN: Tensor, grid: tuple[int, int], neighbours: int = 32) -> tuple[Tensor, Tensor]:
    """The most similar patches of each patch: their places (h, w, J) int32, and how similar (h, w, J) float16.

    similarity_NN: 0 or more; of `token_similarity`, or attention averaged over heads. grid: (h, w). J is `neighbours`,
    or N if there are no more. Similarities are relative to each patch's largest (its own, of tokens), so that half
    precision also holds attention; the walk is the same. 32 neighbours of 28 x 28 patches are 150 KB, the whole matrix
    1.2 MB.
    """
    h, w = grid
    best = similarity_NN.float().topk(min(neighbours, h * w), dim=1)
    relative = best.values / best.values[:, :1].clamp(min=1e-12)
    return best.indices.int().view(h, w, -1), relative.half().view(h, w, -1)


@torch.no_grad()
def random_walk(
    cams_Khw: Tensor, index_hwJ: Tensor, similarity_hwJ: Tensor, steps: int = 16, sharpness: float = 8.0
) -> Tensor:
    """Activations (K, h, w) float32 after `steps` steps; in each a patch becomes the mean of its neighbours.

    cams_Khw: at the grid of the affinity, on the same device. index_hwJ, similarity_hwJ: of `compact_affinity`.
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
