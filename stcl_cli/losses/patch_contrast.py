"""Patch token contrast."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stcl_cli.formats.masks import IGNORE
from stcl_cli.runtime.distributed import ranks, sum_over_ranks


def patch_contrast(tokens_BND: Tensor, labels_BN: Tensor) -> Tensor:
    """Tokens of one label together, of different labels apart (ToCo, Ru et al. 2023, eq. 2).

    L = 1/2 (1 - sum_{A+} |cos| / (|A+| + 1)) + 1/2 sum_{A-} |cos| / (|A-| + 1), over the pairs of one image; pairs with
    an ignored token (255) and a token with itself are out. Scalar, in float32.
    """
    unit = F.normalize(tokens_BND.float(), dim=-1)
    cosine = (unit @ unit.transpose(1, 2)).abs()
    sure = labels_BN != IGNORE
    pair = sure[:, :, None] & sure[:, None, :]
    same = labels_BN[:, :, None] == labels_BN[:, None, :]
    self_pair = torch.eye(labels_BN.shape[1], dtype=torch.bool, device=labels_BN.device)
    alike = pair & same & ~self_pair
    unlike = pair & ~same
    counts = sum_over_ranks(torch.stack([alike.sum(), unlike.sum()])) + 1
    positive = ranks() * (cosine * alike).sum() / counts[0]
    negative = ranks() * (cosine * unlike).sum() / counts[1]
    return 0.5 * (1 - positive) + 0.5 * negative
