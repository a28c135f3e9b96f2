"""Which classes a photo shows, where no labels say so: by the classifier and the memory. Pure functions, all ours.

Shapes: C classes without background, N patches or pixels of a photo.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from stcl_models.memory_bank import BankView

SHARE = 0.02  # of a photo: as much of it has to look like a class for the memory to be sure
BINS = 200  # of probabilities, for which a threshold is looked for
PRIOR = 5  # photos: a class is taken for as good as all together where it has far fewer of its own
UNSURE = 0.5  # the threshold of a network that none was found for


def shown_probability(probability_C: Tensor, score_RN: Tensor, bank: BankView) -> Tensor:
    """How probable it is that a photo shows each class (C): the geometric mean of what classifier and memory say.

    The memory's word is the mean of its probabilities, among all classes and background, over the SHARE of the photo
    that is most like the class. Classes that it does not know are the classifier's alone.

    Args:
        probability_C: the classifier's.
        score_RN: products of the photo's patches and `bank.discriminant_CE`, background first (R = 1 + C).
    """
    known_R = bank.discriminant_CE.any(1)
    score_RN = (score_RN + bank.offset_C[:, None]).masked_fill(~known_R[:, None], -torch.inf)
    most = max(1, round(SHARE * score_RN.shape[1]))
    remembered_C = score_RN.softmax(0)[1:].topk(most, 1).values.mean(1)
    return torch.where(known_R[1:] & known_R[0], (probability_C * remembered_C).sqrt(), probability_C)


def count_probabilities(probability_C: Tensor, labels_K: Tensor) -> Tensor:
    """In which of BINS between 0 and 1 each class's probability lies, if it is a label and if it is not (2,C,BINS)."""
    bins_C = (probability_C * BINS).long().clamp(0, BINS - 1)
    is_label_C = torch.zeros_like(bins_C).index_fill(0, labels_K, 1)
    of_2C = torch.stack([is_label_C, 1 - is_label_C])
    return of_2C[:, :, None] * F.one_hot(bins_C, BINS)


def best_thresholds(counts_2CB: Tensor) -> Tensor:
    """From which probability each class is to count as shown (C): that of the best F1, of equals the nearest to 0.5.

    A class of few photos leans on the F1 of all, as if PRIOR of its own had that.

    Args:
        counts_2CB: sums of `count_probabilities` over photos whose labels are known.
    """
    right_CB, wrong_CB = counts_2CB.double().flip(2).cumsum(2).flip(2)
    right_B, wrong_B = right_CB.sum(0), wrong_CB.sum(0)
    all_B = 2 * right_B / (right_B + wrong_B + right_B[0]).clamp_min(1)
    f1_CB = (2 * right_CB + PRIOR * all_B) / (right_CB + wrong_CB + right_CB[:, :1] + PRIOR)
    threshold_B = torch.arange(BINS, dtype=torch.double, device=f1_CB.device) / BINS
    best_CB = f1_CB >= f1_CB[:, 1:].amax(1, keepdim=True) - 1e-9
    best_CB[:, 0] = False  # above 0
    distance_CB = (threshold_B - UNSURE).abs().masked_fill(~best_CB, 2)
    return threshold_B[distance_CB.argmin(1)]
