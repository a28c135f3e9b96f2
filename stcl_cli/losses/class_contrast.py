"""Class token contrast."""

from __future__ import annotations

import torch
from torch import Tensor

from stcl_cli.runtime.distributed import ranks, sum_over_ranks


def class_contrast(teacher_BGE: Tensor, student_BLE: Tensor, positive_BL: Tensor, temperature: float) -> Tensor:
    """InfoNCE of every global view (teacher) against the local crops (student) of its image (ToCo, sec. 3.3).

    For a view g and a positive crop p: -log( e^{gp/t} / (e^{gp/t} + sum over negatives n of e^{gn/t}) ), the mean over
    all pairs. Images without a positive give no pairs; a batch without any gives 0. Scalar, in float32.
    """
    similarity = torch.einsum("bge,ble->bgl", teacher_BGE.float(), student_BLE.float()) / temperature
    negatives = similarity.masked_fill(positive_BL[:, None], float("-inf")).logsumexp(-1, keepdim=True)
    # -log(e^s / (e^s + N)) = softplus(log N - s), which is 0 where an image has no negative (log N = -inf)
    loss = torch.logaddexp(similarity, negatives) - similarity
    pairs = positive_BL[:, None].expand_as(loss)
    return ranks() * (loss * pairs).sum() / sum_over_ranks(pairs.sum()).clamp_min(1)
