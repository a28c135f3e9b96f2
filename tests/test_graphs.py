"""On a GPU: what is replayed gives what the work itself gives, whatever comes between two calls."""

import copy

import pytest
import torch
from torch import nn

from stcl_cli.graphs import Replayed, ReplayedWithGradient

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def test_work_without_gradients_and_what_it_reads_of_a_module():
    layer = nn.Linear(3, 2).cuda()
    replayed = Replayed(lambda x, y: {"sum": layer(x) + y})
    for _ in range(3):
        x, y = torch.randn(4, 3, device="cuda"), torch.randn(4, 2, device="cuda")
        found = replayed(x, y)["sum"]
        assert not found.requires_grad
        assert torch.allclose(found, layer(x) + y, atol=1e-6)
        with torch.no_grad():
            layer.weight += 1  # as an optimiser does


def test_gradients_of_parameters():
    torch.manual_seed(0)
    plain = nn.ModuleDict({"one": nn.Linear(3, 5), "two": nn.Linear(5, 2), "idle": nn.Linear(1, 1)}).cuda()
    other = copy.deepcopy(plain)

    def work_of(module):
        def work(x):
            middle = module["one"](x).relu()
            return middle, module["two"](middle)

        return work

    replayed = ReplayedWithGradient(work_of(other), list(other.parameters()))
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.1) for module in (plain, other)]
    for turn in range(4):
        x = torch.randn(4, 3, device="cuda")
        for module, work, optimizer in zip((plain, other), (work_of(plain), replayed), optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            middle, last = work(x)
            extra = module["two"](x.new_ones(1, 5)).sum()  # the same weights outside
            (last.square().sum() + extra + (middle.sum() if turn % 2 else 0)).backward()
            assert module["idle"].weight.grad is None
        for mine, theirs in zip(other.parameters(), plain.parameters(), strict=True):
            if theirs.grad is not None:
                assert torch.allclose(mine.grad, theirs.grad, atol=1e-5)
        for optimizer in optimizers:
            optimizer.step()
