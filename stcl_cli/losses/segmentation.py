"""Cross entropy of the segmentation branch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stcl_cli.formats.masks import IGNORE
from stcl_cli.runtime.distributed import ranks, sum_over_ranks


def balanced_cross_entropy(logits_BKHW: Tensor, target_BHW: Tensor) -> Tensor:
    """Mean of background's and foreground's mean cross entropy (ToCo), so that background does not drown objects.

    255 in the target is left out; a half without a pixel counts 0, so a batch with no sure pixel gives 0, not NaN.
    Scalar, in float32.
    """
    loss = F.cross_entropy(logits_BKHW.float(), target_BHW, ignore_index=IGNORE, reduction="none")
    background = target_BHW == 0
    halves = torch.stack([background, ~background & (target_BHW != IGNORE)])
    counts = sum_over_ranks(halves.sum((1, 2, 3))).clamp_min(1)
    return ranks() * ((loss * halves).sum((1, 2, 3)) / counts).mean()


def mean_cross_entropy(logits_BKHW: Tensor, target_BHW: Tensor) -> Tensor:
    """Mean over the pixels that are not 255; 0 where a batch has none. Scalar, in float32."""
    total = F.cross_entropy(logits_BKHW.float(), target_BHW, ignore_index=IGNORE, reduction="sum")
    return ranks() * total / sum_over_ranks((target_BHW != IGNORE).sum()).clamp_min(1)
