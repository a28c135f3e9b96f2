"""Cross entropy of the segmentation branch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from stcl_cli.formats.masks import IGNORE


def balanced_cross_entropy(logits_BKHW: Tensor, target_BHW: Tensor) -> Tensor:
    """Mean of background's and foreground's mean cross entropy (ToCo), so that background does not drown objects.

    255 in the target is left out; a half without a pixel counts 0, so a batch with no sure pixel gives 0, not NaN.
    Scalar, in float32.
    """
    loss = F.cross_entropy(logits_BKHW.float(), target_BHW, ignore_index=IGNORE, reduction="none")
    background = target_BHW == 0
    foreground = ~background & (target_BHW != IGNORE)
    halves = [(loss * half).sum() / half.sum().clamp_min(1) for half in (background, foreground)]
    return (halves[0] + halves[1]) / 2
