"""Edge-following regulariser of the segmentation branch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stcl_cli.distributed import ranks, sum_over_ranks


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
        colour = F.adaptive_avg_pool2d(photos_B3HW.float(), size).flatten(2) / sigma_rgb
        rows, columns = torch.meshgrid(*(torch.arange(s, device=probs.device) for s in size), indexing="ij")
        place = torch.stack([rows, columns]).flatten(1).float() / (sigma_xy * side)
        features_BNF = torch.cat([colour, place.expand(len(colour), -1, -1)], 1).transpose(1, 2)
        features_BNF = features_BNF - features_BNF.mean(1, keepdim=True)
        # |a - b|^2 = |a|^2 + |b|^2 - 2ab: one product and one exponential, where a distance needs five passes over W.
        half_BN1 = -0.5 * features_BNF.square().sum(-1, keepdim=True)
        one_BN1 = torch.ones_like(half_BN1)
        left, right = torch.cat([features_BNF, half_BN1, one_BN1], -1), torch.cat([features_BNF, one_BN1, half_BN1], -1)
        weight_BNN = torch.bmm(left, right.transpose(1, 2)).exp_()
        valid_B1N = F.adaptive_avg_pool2d(valid_BHW.float()[:, None], size).flatten(2)
        total = sum_over_ranks((torch.bmm(valid_B1N, weight_BNN) * valid_B1N).sum()).clamp_min(1e-6)
    probs_BKN = probs.flatten(2) * valid_B1N
    agreement = (torch.bmm(probs_BKN, weight_BNN) * probs_BKN).sum()
    return 1 - ranks() * agreement / total
