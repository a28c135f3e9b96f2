import math

import pytest
import torch
import torch.nn.functional as F
from ranks import run_ranks

from stcl_cli.losses import memory_contrast as module
from stcl_cli.losses.memory_contrast import memory_contrast
from stcl_cli.runtime.distributed import joined
from stcl_models.memory_bank import BankView

CLASSES, SLOTS, WIDTH = 4, 5, 6


def a_bank(seed: int = 0, classes: int = CLASSES) -> BankView:
    generator = torch.Generator().manual_seed(seed)
    embedding = F.normalize(torch.randn(classes, SLOTS, WIDTH, generator=generator), dim=2)
    quality = torch.rand(classes, SLOTS, generator=generator)
    filled = torch.rand(classes, SLOTS, generator=generator) < 0.7
    filled[0, 0] = True
    prototype = F.normalize((embedding * filled[..., None]).sum(1), dim=1)
    unread = torch.zeros_like(prototype), torch.zeros(classes)
    return BankView(embedding, quality, filled, prototype, *unread, torch.rand(classes, generator=generator))


def anchors(count: int = 7, seed: int = 1, classes: int = CLASSES):
    generator = torch.Generator().manual_seed(seed)
    anchor = F.normalize(torch.randn(count, WIDTH, generator=generator), dim=1)
    own = torch.randint(classes, (count,), generator=generator)
    confidence = torch.rand(count, generator=generator)
    negative = torch.rand(count, classes, generator=generator) < 0.7
    return anchor, own, confidence, negative


def naive(anchor, own, confidence, negative, bank, temperature, hardness, adaptive) -> float:
    """The docstring's formula in float64 loops."""
    anchor, embedding, quality = anchor.double(), bank.embedding_CME.double(), bank.quality_CM.double()
    total, used = 0.0, 0
    for a in range(len(anchor)):
        c = int(own[a])
        positives = [m for m in range(SLOTS) if bank.filled_CM[c, m]]
        negatives = [
            (n, m)
            for n in range(len(embedding))
            for m in range(SLOTS)
            if n != c and negative[a, n] and bank.filled_CM[n, m]
        ]
        if not positives or not negatives:
            continue
        used += 1

        def s(n, m, a=a):
            return float(anchor[a] @ embedding[n, m])

        alpha = [float(quality[c, m]) if adaptive else 1.0 for m in positives]
        beta = [float(quality[n, m]) * math.exp(hardness * s(n, m)) if adaptive else 1.0 for n, m in negatives]
        p = sum(w * math.exp(s(c, m) / temperature) for w, m in zip(alpha, positives, strict=True)) / sum(alpha)
        n = sum(w * math.exp(s(*e) / temperature) for w, e in zip(beta, negatives, strict=True)) / sum(beta)
        n *= len({e[0] for e in negatives})
        known = [n for n in range(1, len(embedding)) if bank.filled_CM[n].any()]
        trust = bank.trust_C[c] if c else sum(bank.trust_C[n] for n in known) / max(len(known), 1)
        weight = float(confidence[a] * trust) * min(1, len(positives) / module.READY) if adaptive else 1.0
        total += -weight * math.log(p / (p + n))
    return total / max(used, 1)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_the_formula(adaptive, seed):
    bank, given = a_bank(seed), anchors(seed=seed + 10)
    expected = naive(*given, bank, 0.3, 1.5, adaptive)
    loss = memory_contrast(*given, bank, temperature=0.3, hardness=1.5, adaptive=adaptive)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_the_order_of_anchors_and_classes_does_not_matter():
    bank, (anchor, own, confidence, negative) = a_bank(), anchors()
    loss = memory_contrast(anchor, own, confidence, negative, bank)
    flipped = memory_contrast(*(t.flip(0) for t in (anchor, own, confidence, negative)), bank)
    torch.testing.assert_close(loss, flipped)
    order = torch.tensor([0, 3, 1, 2])  # background stays first
    renamed = memory_contrast(
        anchor, order.argsort()[own], confidence, negative[:, order], BankView(*(t[order] for t in bank))
    )
    torch.testing.assert_close(loss, renamed)


def test_moving_towards_the_memory_of_the_own_class_lowers_it():
    bank = a_bank()
    own = torch.tensor([0])
    negative = torch.ones(1, CLASSES, dtype=torch.bool)
    near, far = bank.prototype_CE[:1], -bank.prototype_CE[:1]
    one = torch.ones(1)
    assert memory_contrast(near, own, one, negative, bank) < memory_contrast(far, own, one, negative, bank)


def test_gradient_reaches_anchors_only_and_survives_a_change_of_the_bank():
    bank, (anchor, *rest) = a_bank(), anchors()
    anchor.requires_grad_()
    loss = memory_contrast(anchor, *rest, bank)
    bank.embedding_CME.zero_()  # as the update after the query does
    loss.backward()
    assert anchor.grad.isfinite().all()
    assert anchor.grad.abs().sum() > 0


def test_an_empty_bank_no_negative_and_no_anchor_give_zero():
    bank, given = a_bank(), anchors()
    empty = bank._replace(filled_CM=torch.zeros_like(bank.filled_CM), prototype_CE=torch.zeros_like(bank.prototype_CE))
    anchor = given[0].clone().requires_grad_()
    loss = memory_contrast(anchor, *given[1:], empty)
    loss.backward()
    assert loss == 0
    assert anchor.grad.abs().sum() == 0
    assert memory_contrast(*given[:3], torch.zeros_like(given[3]), bank) == 0
    assert memory_contrast(*(t[:0] for t in given), bank) == 0


def test_of_many_classes_the_hardest_are_read(monkeypatch):
    monkeypatch.setattr(module, "HARDEST", 2)
    bank = a_bank(classes=30)
    anchor, own, confidence, negative = anchors(2, classes=30)
    read = module._classes_to_read(anchor, own, bank)
    assert {0, *own.tolist()} <= set(read.tolist())
    most_alike = (anchor @ bank.prototype_CE.t()).amax(0)
    others = [c for c in most_alike.argsort(descending=True).tolist() if c not in {0, *own.tolist()}]
    assert read.tolist() == sorted({0, *own.tolist(), *others[: len(read) - len({0, *own.tolist()})]})
    assert len(read) == len(own.unique()) + 2
    assert memory_contrast(anchor, own, confidence, negative, bank).isfinite()


def test_of_many_entries_the_best_are_read(monkeypatch):
    bank, given = a_bank(), anchors()
    monkeypatch.setattr(module, "BEST", 2)
    loss = memory_contrast(*given, bank)
    place = torch.where(bank.filled_CM, bank.quality_CM, -1).topk(2).indices
    rest = torch.zeros_like(bank.filled_CM).scatter(1, place, True) & bank.filled_CM
    monkeypatch.setattr(module, "BEST", SLOTS)
    monkeypatch.setattr(module, "READY", 1)
    expected = memory_contrast(*given, bank._replace(filled_CM=rest))
    monkeypatch.setattr(module, "BEST", 2)
    torch.testing.assert_close(memory_contrast(*given, bank), expected)
    assert loss.isfinite()


def test_two_ranks_read_the_classes_that_one_process_would(monkeypatch):
    """With more classes than are read, also those that are hard for the other rank's anchors only, or its own."""
    monkeypatch.setattr(module, "HARDEST", 3)
    bank, given = a_bank(classes=60), anchors(8, classes=60)

    def part(rank):
        """Loss and gradient of this rank's anchors: of the first one's 5, or of the other's 3."""
        anchor, *rest = (tensor[:5] if rank == 0 else tensor[5:] for tensor in given)
        anchor = anchor.clone().requires_grad_()
        with joined(torch.device("cpu")):
            loss = memory_contrast(anchor, *rest, bank)
            loss.backward()
            return loss.item(), anchor.grad.tolist()

    anchor = given[0].clone().requires_grad_()
    whole = memory_contrast(anchor, *given[1:], bank)
    whole.backward()
    (first, above), (second, below) = run_ranks(2, part)
    assert (first + second) / 2 == pytest.approx(whole.item(), rel=1e-5)
    torch.testing.assert_close(torch.tensor(above + below) / 2, anchor.grad)
