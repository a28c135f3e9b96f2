"""The temporal module's part of the objective: the memory contrast of a batch, then what the batch leaves in the bank.

Shapes: as in objective.py; E token width of the memory, A anchors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stcl_cli.cams import shrink
from stcl_cli.config import TrainConfig
from stcl_cli.losses.memory_contrast import memory_contrast
from stcl_cli.memory import (
    LEAST_PATCHES,
    nearest_own_class,
    region_embeddings,
    region_masks,
    region_quality,
)
from stcl_cli.runtime.distributed import all_gather_rows
from stcl_models.backbone import Tokens
from stcl_models.memory_bank import Entries, MemoryBank
from stcl_models.stcl import CamPass, resize

PATCHES = 16  # uncertain patches of a photo that become anchors, the clearest of them


class Regions(NamedTuple):
    """Sure regions of every photo on a token grid."""

    masks_BRN: Tensor
    classes_BR: Tensor  # 0 background, -1 an empty slot
    maps_BKhw: Tensor
    uncertain_BN: Tensor


class Remember:
    """The memory bank of a run, in training."""

    def __init__(self, bank: MemoryBank, config: TrainConfig) -> None:
        self.bank, self.config = bank, config

    def regions(self, maps_BKhw: Tensor, slots_BK: Tensor, valid_BHW: Tensor, grid: tuple[int, int]) -> Regions:
        maps = maps_BKhw if maps_BKhw.shape[-2:] == grid else resize(maps_BKhw, grid)
        valid = shrink(valid_BHW, grid)
        masks, classes = region_masks(maps, slots_BK, valid, self.config.beta_low, self.config.beta_high)
        return Regions(masks, classes, maps, valid.flatten(1) & ~masks.any(1))

    def loss(self, tokens: Tokens, regions: Regions, logits_BC: Tensor, slots_BK: Tensor) -> Tensor:
        """Anchors: the photo's sure regions, and uncertain patches with the class of the nearest prototype."""
        bank = self.bank.view()
        key_BND = tokens.key_BND.float()
        region_BRE = region_embeddings(key_BND, regions.masks_BRN, bank.prototype_CE[0])
        probability_BK = _probabilities(logits_BC, slots_BK)
        quality_BR = region_quality(regions.maps_BKhw, regions.masks_BRN, probability_BK)
        real_BR = (regions.masks_BRN.sum(2) >= LEAST_PATCHES) & (regions.classes_BR >= 0)

        known_C = bank.prototype_CE.any(1)
        with torch.no_grad():
            cosine_BCN = torch.einsum("bne,ce->bcn", key_BND, bank.prototype_CE)
            nearest_BN, lead_BN = nearest_own_class(cosine_BCN, regions.classes_BR, known_C)
            # Of the uncertain patches those whose class is the clearest (ours: no draw, so no noise).
            lead_BN = lead_BN.masked_fill(~regions.uncertain_BN, -1)
            chosen_BP = lead_BN.topk(min(PATCHES, lead_BN.shape[1])).indices
        patch_BPE = key_BND.gather(1, chosen_BP[:, :, None].expand(-1, -1, key_BND.shape[2]))
        class_BP, lead_BP = nearest_BN.gather(1, chosen_BP), lead_BN.gather(1, chosen_BP)
        real_BP = regions.uncertain_BN.gather(1, chosen_BP) & (class_BP >= 0)

        anchor = torch.cat([region_BRE, patch_BPE], 1)
        class_ = torch.cat([regions.classes_BR, class_BP], 1)
        confidence = torch.cat([quality_BR, lead_BP.clamp_min(0)], 1)
        real = torch.cat([real_BR, real_BP], 1)
        # Negatives: background, and the classes that the photo does not show; for background all classes.
        shown_BC = F.one_hot(regions.classes_BR.clamp_min(0), len(known_C)).sum(1) > 0
        shown_BC[:, 0] = False
        negative = ~shown_BC[:, None] | (class_ == 0)[:, :, None]
        anchors = (anchor, class_, confidence.detach(), negative)
        return memory_contrast(
            *_rows_where(real, *anchors),
            bank,
            temperature=self.config.memory_temperature,
            adaptive=self.config.memory_loss == "adaptive",
        )

    @torch.no_grad()
    def store(
        self, cams: CamPass, maps_BKhw: Tensor, slots_BK: Tensor, valid_BHW: Tensor, index_B: Tensor, progress: float
    ) -> None:
        """After the loss was computed: the memory does not yet hold what it is asked about.

        With --accumulate that is a part of the batch; the parts before it are in the memory.
        """
        regions = self.regions(maps_BKhw, slots_BK, valid_BHW, cams.key_grid)
        embedding_BRE = region_embeddings(cams.key_BNE, regions.masks_BRN, self.bank.prototype[0])
        probability_BK = _probabilities(cams.logits_BC, slots_BK)
        quality_BR = region_quality(regions.maps_BKhw, regions.masks_BRN, probability_BK)
        real_BR = (regions.masks_BRN.sum(2) >= LEAST_PATCHES) & (regions.classes_BR >= 0)
        entries = (embedding_BRE, regions.classes_BR, quality_BR, index_B[:, None].expand_as(quality_BR))
        entries = Entries(*all_gather_rows(*_rows_where(real_BR, *entries)))
        self.bank.update(entries, round(progress * self.config.iterations))


def _rows_where(real_BR: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Of tensors (B,R,...) the rows that are real. Counted once: a GPU is waited for each time."""
    index = real_BR.flatten().nonzero()[:, 0]
    return [tensor.flatten(0, 1)[index] for tensor in tensors]


def _probabilities(logits_BC: Tensor, slots_BK: Tensor) -> Tensor:
    """Of each slot's class (B,K), without gradient."""
    return logits_BC.detach().float().sigmoid().gather(1, slots_BK.clamp_min(0))
