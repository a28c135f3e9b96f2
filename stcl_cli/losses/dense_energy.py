"""Edge-following regulariser of the segmentation branch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stcl_cli.runtime.distributed import ranks, sum_over_ranks


def dense_energy(
    logits_BKhw: Tensor,
    photos_B3HW: Tensor,
    valid_BHW: Tensor,
    side: int = 32,
    sigma_rgb: float = 15.0,
    sigma_xy: float = 0.2,
) -> Tensor:
    """Dense CRF energy of the soft segmentation (Tang et al. 2018, as ToCo uses it), exact on a small grid (ours).

    Photo (0..255) and scores are brought to at most `side` cells a side, where all pairs fit one matrix product:
    L = sum_ij W_ij (1 - p_i . p_j) / sum_ij W_ij, with W a Gaussian in colour (sigma_rgb) and place (sigma_xy, a share
    of the longer side), no gradient through W. In [0,1]; scalar, in float32. `valid` (0/1) takes the padding out.
    """
    scale = side / max(photos_B3HW.shape[-2:])
    size = [max(1, round(s * scale)) for s in photos_B3HW.shape[-2:]]
    probs = F.interpolate(logits_BKhw.float(), size=size, mode="bilinear", align_corners=False).softmax(1)
    with torch.no_grad():
        colour_B3N = F.adaptive_avg_pool2d(photos_B3HW.float(), size).flatten(2) / sigma_rgb
        rows, columns = torch.meshgrid(*(torch.arange(s, device=probs.device) for s in size), indexing="ij")
        place_2N = torch.stack([rows, columns]).flatten(1).float() / (sigma_xy * side)
        features_BNF = torch.cat([colour_B3N, place_2N.expand(len(colour_B3N), -1, -1)], 1).transpose(1, 2)
        valid_B1N = F.adaptive_avg_pool2d(valid_BHW.float()[:, None], size).flatten(2)
    probs_BKN = probs.flatten(2) * valid_B1N
    # L is quadratic: with W p at hand its gradient needs no W, which so need not be kept.
    spread_BKN, spread_B1N = _spread([probs_BKN.detach(), valid_B1N], features_BNF)
    total = sum_over_ranks((spread_B1N * valid_B1N).sum()).clamp_min(1e-6)
    half = (spread_BKN * probs_BKN).sum()
    return 1 - ranks() * (2 * half - half.detach()) / total


def _spread(values: list[Tensor], features_BNF: Tensor) -> tuple[Tensor, ...]:
    """W times values (B,*,N), W_ij = exp(-|f_i - f_j|^2 / 2), from f_i . f_j - |f_i|^2 / 2 - |f_j|^2 / 2."""
    features_BNF = features_BNF - features_BNF.mean(1, keepdim=True)
    half_BN1 = -0.5 * features_BNF.square().sum(-1, keepdim=True)
    one_BN1 = torch.ones_like(half_BN1)
    left, right = torch.cat([features_BNF, half_BN1, one_BN1], -1), torch.cat([features_BNF, one_BN1, half_BN1], -1)
    together = torch.cat(values, 1)
    step = 1 if together.device.type == "cpu" else len(together)  # W of one photo stays in a CPU's cache
    parts = [
        torch.bmm(v, torch.bmm(a, b.transpose(1, 2)).exp_())
        for v, a, b in zip(together.split(step), left.split(step), right.split(step), strict=True)
    ]
    return torch.cat(parts).split([value.shape[1] for value in values], 1)
