"""Which anchors the memory loss gets of a batch, with which classes, confidence and negatives: against plain loops."""

import pytest
import torch
import torch.nn.functional as F

from stcl_cli.config import TrainConfig
from stcl_cli.memory import LEAST_PATCHES, region_embeddings, region_quality
from stcl_cli.training import remember as module
from stcl_cli.training.remember import Regions, Remember
from stcl_models.backbone import Tokens
from stcl_models.memory_bank import Entries, MemoryBank

CLASSES, WIDTH, GRID = 4, 6, (4, 4)  # with background
PATCHES = 3


@pytest.fixture
def given():
    """Two photos: one shows classes 1 and 3, the other class 2; a memory that knows all but class 3."""
    torch.manual_seed(0)
    bank = MemoryBank(CLASSES, WIDTH, slots=4)
    stored = F.normalize(torch.randn(3, WIDTH), dim=1)
    bank.update(Entries(stored, torch.arange(3), torch.full((3,), 0.9), torch.zeros(3, dtype=torch.long)), 0)
    key_BND = F.normalize(torch.randn(2, 16, WIDTH), dim=2)
    slots_BK = torch.tensor([[0, 2], [1, -1]])
    place = torch.randint(0, 4, (2, 16))  # background, the two slots, uncertain
    place[1][place[1] == 2] = 3
    place[:, :3], place[:, 3:6] = 0, 1
    place[0, place[0] == 2] = 3
    place[0, 6:8], place[0, 8:13] = 2, 3  # the second slot's are too few for a region
    masks_BRN = torch.stack([(place == region).float() for region in range(3)], 1)
    classes_BR = torch.tensor([[0, 1, 3], [0, 2, -1]])
    regions = Regions(masks_BRN, classes_BR, torch.rand(2, 2, *GRID), place == 3)
    return bank, Tokens(None, None, key_BND, None, GRID), regions, torch.randn(2, CLASSES - 1), slots_BK


def expected_rows(bank, tokens, regions, logits_BC, slots_BK):
    """(embedding, class, confidence, negatives) of every anchor."""
    key_BND, prototype_CE = tokens.key_BND, bank.prototype
    embedding_BRE = region_embeddings(key_BND, regions.masks_BRN, prototype_CE[0])
    probability_BK = torch.stack(
        [torch.stack([logits_BC[b, max(int(slot), 0)].sigmoid() for slot in slots_BK[b]]) for b in range(2)]
    )
    quality_BR = region_quality(regions.maps_BKhw, regions.masks_BRN, probability_BK)
    for b in range(2):
        shown = {int(c) for c in regions.classes_BR[b] if c >= 0}
        rows = []
        for r, own in enumerate(regions.classes_BR[b].tolist()):
            if own >= 0 and regions.masks_BRN[b, r].sum() >= LEAST_PATCHES:
                rows.append((embedding_BRE[b, r], own, quality_BR[b, r]))
        uncertain = []
        for n in regions.uncertain_BN[b].nonzero()[:, 0].tolist():
            cosines = {c: float(key_BND[b, n] @ prototype_CE[c]) for c in shown if prototype_CE[c].any()}
            first, second = sorted(cosines, key=cosines.get, reverse=True)[:2]
            uncertain.append((cosines[first] - cosines[second], n, first))
        for lead, n, own in sorted(uncertain, reverse=True)[:PATCHES]:
            rows.append((key_BND[b, n], own, torch.tensor(lead)))
        for embedding, own, confidence in rows:
            negative = [c == 0 or own == 0 or c not in shown for c in range(CLASSES)]
            yield embedding, own, confidence, torch.tensor(negative)


def test_the_anchors_of_a_batch(given, monkeypatch):
    bank, tokens, regions, logits_BC, slots_BK = given
    monkeypatch.setattr(module, "PATCHES", PATCHES)
    got = []
    monkeypatch.setattr(module, "memory_contrast", lambda *tensors, **options: got.append((tensors, options)))
    config = TrainConfig(images="", labels="", output="", memory_temperature=0.3, memory_loss="fixed")
    Remember(bank, config).loss(tokens, regions, logits_BC, slots_BK)
    ((embedding, own, confidence, negative, view), options) = got[0]
    rows = list(expected_rows(bank, tokens, regions, logits_BC, slots_BK))
    assert len(rows) == 2 * PATCHES + 4  # of four regions; a fifth is too small
    assert own.tolist() == [row[1] for row in rows]
    torch.testing.assert_close(embedding, torch.stack([row[0] for row in rows]))
    torch.testing.assert_close(confidence, torch.stack([row[2] for row in rows]))
    assert negative.tolist() == [row[3].tolist() for row in rows]
    assert torch.equal(view.prototype_CE, bank.prototype)
    assert options == {"temperature": 0.3, "adaptive": False}
