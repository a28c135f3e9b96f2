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
    probs = F.interpolate(logits_BKhw.float(), size=size, mode="bilinear", align_corners=False).softmax(1).flatten(2)
    with torch.no_grad():
        colour = F.adaptive_avg_pool2d(photos_B3HW.float(), size).flatten(2) / sigma_rgb
        rows, columns = torch.meshgrid(*(torch.arange(s, device=probs.device) for s in size), indexing="ij")
        place = torch.stack([rows, columns]).flatten(1).float() / (sigma_xy * side)
        features_BNF = torch.cat([colour, place.expand(len(colour), -1, -1)], 1).transpose(1, 2)
        weight = torch.exp(-0.5 * torch.cdist(features_BNF, features_BNF).square())
        valid = F.adaptive_avg_pool2d(valid_BHW.float()[:, None], size).flatten(1)
        weight = weight * valid[:, :, None] * valid[:, None, :]
        total = sum_over_ranks(weight.sum()).clamp_min(1e-6)
    agreement = (torch.bmm(probs, weight) * probs).sum()
    return 1 - ranks() * agreement / total
