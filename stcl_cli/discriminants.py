"""How to tell the classes of patch tokens apart, learnt from tokens that are only thought to be theirs.

Pure functions, tensors in, tensors out. Linear discriminants are Fisher's (1936); which tokens they are learnt from is
ours. Image-level labels are known, so a photo without a label has no token of that class. That tells what in the
regions of a class is only its company: water around boats is in other photos too, and so does not count.

Shapes: S tokens, E token width, C classes, background first, P photos with at most K labels each.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 0.3  # added to the spread of tokens in every direction, relative to their mean spread
TEMPER = 0.3  # neighbouring tokens say much the same, so each says less than one drawn alone
BACKGROUND_LEAD = 1.0  # of background's offset, as most of a photo is background
ROUNDS = 5  # of choosing tokens by what was learnt from those chosen before
STRANGERS = 0.99  # share of the tokens of other photos that a token of a class has to be more like the class than
KEPT = 0.85  # share of those tokens that is kept, the ones least like background
CHUNK = 2**13  # tokens at a time


def learn_discriminants(
    token_SE: Tensor, class_S: Tensor, photo_S: Tensor, labels_PK: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """Discriminants (C,E) and offsets (C) from tokens of photos, without those that may not be of their class.

    Args:
        token_SE: of all of a photo, also those of no known class.
        class_S: what each is thought to be, 0 = background; -1: not known.
        photo_S: the place of its photo in labels_PK.
        labels_PK: the classes that each photo shows, from 1; 0 where it has fewer labels.
    """
    token_SE = token_SE.float()
    shows_PC = torch.zeros(len(labels_PK), classes, dtype=torch.bool, device=token_SE.device)
    stranger_CS = ~shows_PC.scatter_(1, labels_PK, True).t()[:, photo_S]  # tokens of photos without the class
    stranger_C = stranger_CS.sum(1)
    stranger_mean_CE = stranger_CS.float() @ token_SE / stranger_C.clamp_min(1)[:, None]
    kept_S = class_S >= 0
    for _ in range(ROUNDS):
        mean_CE, spread_EE = _moments(token_SE[kept_S], class_S[kept_S], classes)
        directions = _solve(spread_EE, torch.cat([mean_CE - mean_CE[0], mean_CE - stranger_mean_CE]))
        lead_CS, alike_CS = (directions @ token_SE.t()).chunk(2)  # over background, and over strangers
        kept_S = class_S == 0
        for label in class_S[class_S > 0].unique().tolist():
            candidates = (class_S == label).nonzero()[:, 0]
            lead_S, alike_S, strangers = lead_CS[label], alike_CS[label], int(stranger_C[label])
            if strangers:
                least = alike_S[stranger_CS[label]].kthvalue(int(STRANGERS * strangers) + 1).values
                own = candidates[alike_S[candidates] >= least]
                candidates = own if len(own) else candidates
            best = lead_S[candidates].topk(max(1, int(KEPT * len(candidates)))).indices
            kept_S[candidates[best]] = True
    return fisher_discriminants(token_SE[kept_S], class_S[kept_S], classes)


def fisher_discriminants(token_SE: Tensor, class_S: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Linear discriminants (C,E) and offsets (C) of classes of tokens (Fisher 1936).

    With m a class's mean and S the spread around the means, one for all classes: S^-1 m and -1/2 m S^-1 m, times
    TEMPER. A class without tokens has zeros.
    """
    mean_CE, spread_EE = _moments(token_SE, class_S, classes)
    discriminant_CE = _solve(spread_EE, mean_CE)
    offset_C = -(mean_CE * discriminant_CE).sum(1) / 2
    offset_C[0] += BACKGROUND_LEAD / TEMPER
    return TEMPER * discriminant_CE, TEMPER * offset_C


def _moments(token_SE: Tensor, class_S: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The mean of each class (C,E), zero without tokens, and the spread around them (E,E), with its ridge."""
    width = token_SE.shape[1]
    sum_CE, square_EE = token_SE.new_zeros(classes, width), token_SE.new_zeros(width, width)
    parts = list(zip(token_SE.split(CHUNK), class_S.split(CHUNK), strict=True))
    for token, own in parts:  # products, not index_add_, which on a GPU sums in any order
        sum_CE += F.one_hot(own, classes).t().float() @ token
    mean_CE = sum_CE / class_S.bincount(minlength=classes).clamp_min(1)[:, None]
    for token, own in parts:
        deviation = token - mean_CE[own]
        square_EE += deviation.t() @ deviation
    spread_EE = square_EE / max(1, len(class_S))
    ridge = (RIDGE * spread_EE.diagonal().mean()).clamp_min(1e-8)
    return mean_CE, spread_EE + ridge * torch.eye(width, device=ridge.device)


def _solve(spread_EE: Tensor, rows_CE: Tensor) -> Tensor:
    return torch.linalg.solve(spread_EE, rows_CE.t()).t()
