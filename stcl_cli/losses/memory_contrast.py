"""Adaptive memory contrastive loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stcl_cli.runtime.distributed import max_over_ranks, ranks, sum_over_ranks

if TYPE_CHECKING:
    from stcl_models.memory_bank import BankView

READY = 32  # entries of a class from which its memory counts in full
# What is read of a large bank: its cost must not grow with the class list or with the slots.
HARDEST = 32  # classes beside the anchors' own
BEST = 256  # entries of a class, those of the highest quality


def memory_contrast(
    anchor_AE: Tensor,
    class_A: Tensor,
    confidence_A: Tensor,
    negative_AC: Tensor,
    bank: BankView,
    *,
    temperature: float = 0.1,
    hardness: float = 1.0,
    adaptive: bool = True,
) -> Tensor:
    """Anchors towards what the bank remembers of their class, away from what it remembers of classes not in the image.

    The name and the idea are the paper's (STCL, Liang et al. 2026), the form is ours. For an anchor a of class c with
    similarities s to the entries, p over bank[c] and n over the entries of the classes of `negative_AC`:

        L(a) = -w_a log( P / (P + N) ),  P = sum_p alpha_p e^(s_p / t),  N = sum_n beta_n e^(s_n / t)

    alpha_p ~ q_p and beta_n ~ q_n e^(hardness s_n), of mean one and without gradient; w_a = confidence_A times the
    share of READY entries that c has, so the loss grows as the memory does, times the trust in c's memory, for
    background the mean trust in the others. P is divided by the entries it sums over, N by the entries a class, so that
    a fuller memory weighs no more. Without `adaptive` w, alpha and beta are one: InfoNCE with several positives. Of
    many classes the HARDEST are read, of many entries the BEST.

    anchor_AE: unit length. class_A: 0 = background. negative_AC: bool, C classes with background; an anchor's own class
    never counts. Anchors whose class has no entry, or that have no negative, are left out; none left gives 0. Scalar,
    in float32.
    """
    read_C = _classes_to_read(anchor_AE, class_A, bank)
    # Copies: the bank may change before the gradient is asked for.
    filled_CM, quality_CM = bank.filled_CM[read_C], bank.quality_CM[read_C]
    best_CM = torch.where(filled_CM, quality_CM, -1).topk(min(BEST, filled_CM.shape[1])).indices
    filled_CM, quality_CM = filled_CM.gather(1, best_CM), quality_CM.gather(1, best_CM)
    memory_CME = bank.embedding_CME[read_C[:, None], best_CM]
    own_A = torch.searchsorted(read_C, class_A)  # its place among the classes read
    filled_AM = filled_CM[own_A]
    negative_AC = negative_AC[:, read_C].scatter(1, own_A[:, None], False) & filled_CM.any(1)
    usable_A = filled_AM.any(1) & negative_AC.any(1)
    similarity_ACM = torch.einsum("ae,cme->acm", anchor_AE.float(), memory_CME.float())
    similarity_AM = similarity_ACM.gather(1, own_A[:, None, None].expand(-1, 1, filled_CM.shape[1]))[:, 0]
    if adaptive:
        log_alpha_CM = quality_CM.clamp_min(1e-6).log()
        log_beta_ACM = log_alpha_CM + hardness * similarity_ACM.detach()
        count_C = bank.filled_CM.sum(1)
        others_C = (count_C > 0).float().index_fill(0, count_C.new_zeros(1), 0)
        trust_of_others = (bank.trust_C * others_C).sum() / others_C.sum().clamp_min(1)
        trust_C = torch.cat([trust_of_others[None], bank.trust_C[1:]])
        weight_A = confidence_A * ((count_C / READY).clamp_max(1) * trust_C)[class_A]
    else:
        log_alpha_CM, log_beta_ACM = torch.zeros_like(quality_CM), torch.zeros_like(similarity_ACM)
        weight_A = torch.ones_like(confidence_A)
    log_p = _log_mean(similarity_AM / temperature, log_alpha_CM[own_A], filled_AM)
    negative_ACM = negative_AC[:, :, None] & filled_CM
    log_n = _log_mean((similarity_ACM / temperature).flatten(1), log_beta_ACM.flatten(1), negative_ACM.flatten(1))
    log_n = log_n + negative_AC.sum(1).clamp_min(1).log()
    loss_A = torch.where(usable_A, torch.logaddexp(log_p, log_n) - log_p, 0) * weight_A
    return ranks() * loss_A.sum() / sum_over_ranks(usable_A.sum()).clamp_min(1)


@torch.no_grad()
def _classes_to_read(anchor_AE: Tensor, class_A: Tensor, bank: BankView) -> Tensor:
    """The anchors' classes and the HARDEST others, those whose prototypes are the most similar to any anchor.

    To any of all ranks: each reads what one process would that has all their anchors.
    """
    cosine_AC = anchor_AE.float() @ bank.prototype_CE.t()
    hard_C = torch.cat([cosine_AC, torch.full_like(bank.prototype_CE[:, :1].t(), -1)]).amax(0)  # also without anchors
    own_C = torch.zeros_like(hard_C).index_fill_(0, class_A, 1)
    hard_C, own_C = max_over_ranks(torch.stack([hard_C, own_C]))
    hard_C = hard_C.masked_fill(own_C > 0, torch.inf)
    hard_C[0].fill_(torch.inf)  # background; `=` would wait for a GPU
    count = int(own_C.sum()) + HARDEST
    return hard_C.topk(min(count, len(hard_C))).indices.sort().values


def _log_mean(scores_AN: Tensor, log_weight_AN: Tensor, mask_AN: Tensor) -> Tensor:
    """log( sum of weight e^score / sum of weight ) over the mask, (A); any number where the mask is empty."""
    log_weight_AN = torch.where(mask_AN, log_weight_AN, -torch.inf)
    empty_A = ~mask_AN.any(1)
    log_weight_AN = log_weight_AN.masked_fill(empty_A[:, None], 0.0)  # -inf - -inf would be NaN, in the gradient too
    return (scores_AN + log_weight_AN).logsumexp(1) - log_weight_AN.logsumexp(1)
