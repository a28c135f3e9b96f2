"""A memory of past images: region embeddings a class, background included, with their quality and age.

The memory bank is the paper's idea (STCL, Liang et al. 2026); slots a class and prototypes follow RCA (Zhou et al.,
CVPR 2022); the gates, the value of a slot and the vectorised update are ours. Class 0 is background.

Shapes: C classes with background, M slots a class, E embedding width, R entries of a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DOUBTED, TRUSTED = 0.5, 0.7  # mean quality up to which a class's memory counts nothing, and from which in full
MOMENTUM = 0.95  # of the running moments of cosines to the prototypes
SHARPNESS = 4.0  # of what prototypes say, relative to how far classes are from background
BACKGROUND_MARGIN = 0.2  # added to background's cosine, relative to the same distance


class Entries(NamedTuple):
    """Region embeddings of a batch that ask to be stored."""

    embedding_RE: Tensor  # unit length
    class_R: Tensor  # 0 = background
    quality_R: Tensor  # 0..1
    photo_R: Tensor  # index of the photo in the run's list


class BankView(NamedTuple):
    """What the memory loss and the guidance read."""

    embedding_CME: Tensor  # unit length; zero where nothing is stored
    quality_CM: Tensor
    filled_CM: Tensor  # bool
    prototype_CE: Tensor  # unit length; zero for a class without one
    discriminant_CE: Tensor  # a token's logit of each class is its product with that; zero for an unknown class
    offset_C: Tensor  # added to it
    trust_C: Tensor  # 0..1, how far guidance and loss may follow a class's memory; zero for a class without one


class MemoryBank(nn.Module):
    """All buffers, so it is part of every checkpoint and has no gradient. Query first, `update` after.

    `adaptive`: entries pass a gate against outliers, a full class gives up the slot of least value, which is quality
    times 0.5^(age / `half_life`), age in steps, and that value weighs the slots in the class's prototype, so that what
    an untrained network stored is soon of no account; without it every entry is stored, the oldest slot goes (first in,
    first out), and the prototype is the plain mean.

    What it says of a token is linear in the token, `discriminant` and `offset` of each class: after an `update` by
    the cosines to the prototypes; who knows better has it `read_by` others.
    """

    def __init__(
        self, classes: int, width: int, *, slots: int = 256, adaptive: bool = True, half_life: float = 1000
    ) -> None:
        super().__init__()
        self.adaptive, self.half_life = adaptive, half_life
        self.register_buffer("embedding", torch.zeros(classes, slots, width))
        self.register_buffer("quality", torch.zeros(classes, slots))
        self.register_buffer("stored_at", torch.full((classes, slots), -1))  # training step; -1: empty
        self.register_buffer("photo", torch.full((classes, slots), -1))
        self.register_buffer("prototype", torch.zeros(classes, width))
        self.register_buffer("trust", torch.zeros(classes))
        self.register_buffer("cosine_mean", torch.zeros(classes))  # of entries to their class's prototype
        self.register_buffer("cosine_square", torch.zeros(classes))
        self.register_buffer("discriminant", torch.zeros(classes, width))
        self.register_buffer("offset", torch.zeros(classes))
        self.register_buffer("offered", torch.zeros(classes, dtype=torch.long))
        self.register_buffer("stored", torch.zeros(classes, dtype=torch.long))

    def empty(self) -> MemoryBank:
        """Another one with the same settings, on the same device, that holds nothing yet."""
        classes, slots, width = self.embedding.shape
        bank = MemoryBank(classes, width, slots=slots, adaptive=self.adaptive, half_life=self.half_life)
        return bank.to(self.embedding.device)

    def view(self) -> BankView:
        filled_CM = self.stored_at >= 0
        read = (self.discriminant, self.offset)
        return BankView(self.embedding, self.quality, filled_CM, self.prototype, *read, self.trust)

    @torch.no_grad()
    def update(self, entries: Entries, step: int) -> None:
        """Store the entries of a batch, under several processes those of all ranks, in one order on all of them."""
        embedding_RE, class_R, quality_R, photo_R = entries
        classes = len(self.prototype)
        if not len(class_R):
            return
        self.offered += _count(class_R, classes)
        cosine_R = (embedding_RE * self.prototype[class_R]).sum(1)
        known_R = self.prototype[class_R].any(1)
        if self.adaptive:
            deviation = (self.cosine_square - self.cosine_mean.square()).clamp_min(0).sqrt()
            keep_R = ~known_R | (cosine_R >= (self.cosine_mean - deviation)[class_R])
        else:
            keep_R = torch.ones_like(known_R)
        self._learn_moments(class_R, cosine_R, known_R)
        slot_R, fits_R = self._places(class_R, quality_R, keep_R, step)
        fits = fits_R.nonzero()[:, 0]  # counted once: a GPU is waited for each time
        if not len(fits):
            return
        class_R = class_R[fits]
        place = (class_R, slot_R[fits])
        self.embedding[place] = embedding_RE[fits]
        self.quality[place] = quality_R[fits].float()
        self.photo[place] = photo_R[fits]
        self.stored_at[place] = torch.full_like(class_R, step)  # as a number it would wait for a GPU, too
        self._learn_prototypes(class_R, step)
        self.stored += _count(class_R, classes)

    def _places(self, class_R: Tensor, quality_R: Tensor, keep_R: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Slot of every entry, and whether it has one: the r-th one kept of a class takes its r-th least valuable slot.

        Of more entries of a class than it has slots the best have one; first in, first out: the last.
        """
        stored_RM = self.stored_at[class_R]
        value_RM = self._value(class_R, step) if self.adaptive else stored_RM.float()
        order_RM = torch.where(stored_RM >= 0, value_RM, -torch.inf).argsort(dim=1, stable=True)
        same_RR = (class_R[:, None] == class_R[None]) & keep_R[None]
        earlier_RR = torch.ones_like(same_RR).tril(-1)
        preferred_RR = earlier_RR.t()
        if self.adaptive:
            ahead_RR = quality_R[None] - quality_R[:, None]
            preferred_RR = (ahead_RR > 0) | ((ahead_RR == 0) & earlier_RR)
        slots = order_RM.shape[1]
        fits_R = keep_R & ((same_RR & preferred_RR).sum(1) < slots)
        rank_R = (same_RR & earlier_RR & fits_R).sum(1)
        return order_RM.gather(1, rank_R.clamp_max(slots - 1)[:, None])[:, 0], fits_R

    def _learn_prototypes(self, class_R: Tensor, step: int) -> None:
        """Of the classes that got an entry: the mean of their slots, by value, and how good those are."""
        class_R = class_R.unique()
        filled_RM = self.stored_at[class_R] >= 0
        weight_RM = filled_RM * (self._value(class_R, step) if self.adaptive else 1.0)
        mean_RE = torch.einsum("rm,rme->re", weight_RM, self.embedding[class_R])
        self.prototype[class_R] = F.normalize(mean_RE, dim=1)
        quality_R = (weight_RM * self.quality[class_R]).sum(1) / weight_RM.sum(1)
        self.trust[class_R] = ((quality_R - DOUBTED) / (TRUSTED - DOUBTED)).clamp(0, 1)
        self.read_by_prototypes()

    @torch.no_grad()
    def read_by_prototypes(self) -> None:
        """SHARPNESS / D times the cosine, with D the mean of 1 - cosine between a class's prototype and background's.

        So one setting fits backbones whose tokens lie close together or far apart.
        """
        known_C = self.prototype.any(1)
        apart_C = (1 - self.prototype @ self.prototype[0])[1:] * known_C[1:]
        apart = (apart_C.sum() / known_C[1:].sum().clamp_min(1)).clamp_min(1e-3)
        offset_C = torch.zeros_like(self.offset)
        offset_C[0].fill_(SHARPNESS * BACKGROUND_MARGIN)  # `=` would wait for a GPU
        self.read_by(self.prototype * (SHARPNESS / apart), offset_C)

    @torch.no_grad()
    def read_by(self, discriminant_CE: Tensor, offset_C: Tensor) -> None:
        """Until the next `update`."""
        self.discriminant.copy_(discriminant_CE)
        self.offset.copy_(offset_C)

    def _value(self, class_R: Tensor, step: int) -> Tensor:
        """Of the slots of these classes (R,M)."""
        return self.quality[class_R].clamp_min(1e-3) * 0.5 ** ((step - self.stored_at[class_R]) / self.half_life)

    def _learn_moments(self, class_R: Tensor, cosine_R: Tensor, known_R: Tensor) -> None:
        """Of the entries whose class has a prototype."""
        own_RC = F.one_hot(class_R, len(self.prototype)) * known_R[:, None]
        count_C = own_RC.sum(0)
        fresh_C = self.cosine_square == 0
        for moment, value_R in ((self.cosine_mean, cosine_R), (self.cosine_square, cosine_R.square())):
            # Not index_add_, which on a GPU sums in any order: the banks of several processes would drift apart.
            mean_C = (own_RC * value_R[:, None]).sum(0) / count_C.clamp_min(1)
            learnt_C = torch.where(fresh_C, mean_C, torch.lerp(mean_C, moment, MOMENTUM))
            moment.copy_(torch.where(count_C > 0, learnt_C, moment))

    @torch.no_grad()
    def statistics(self) -> dict[str, float]:
        """For people: how full and how good the memory is, and whether its classes are apart.

        fill and quality over the classes that hold anything; refused: share of all entries offered that did not pass;
        replaced: share of those stored that took another's slot; within: mean cosine of an entry to its class's
        prototype; between: mean cosine of two prototypes.
        """
        filled_CM = self.stored_at >= 0
        known_C = filled_CM.any(1)
        count, stored, offered = filled_CM.sum(), self.stored.sum(), self.offered.sum()
        within_CM = torch.einsum("cme,ce->cm", self.embedding, self.prototype)
        known = self.prototype[known_C]
        pairs = max(len(known) * (len(known) - 1), 1)
        figures = {
            "fill": count / (known_C.sum() * filled_CM.shape[1]).clamp_min(1),
            "quality": self.quality[filled_CM].mean() if count else count,
            "refused": (offered - stored) / offered.clamp_min(1),
            "replaced": (stored - count) / stored.clamp_min(1),
            "within": within_CM[filled_CM].mean() if count else count,
            "between": ((known @ known.t()).sum() - len(known)) / pairs,
        }
        return {name: round(float(value), 4) for name, value in figures.items()}


def _count(class_R: Tensor, classes: int) -> Tensor:
    """Entries of each class (C). bincount would wait for a GPU, twice."""
    return F.one_hot(class_R, classes).sum(0)
