"""On a GPU: what is replayed gives what the work itself gives, whatever comes between two calls."""

import copy

import pytest
import torch
from torch import nn

from stcl_cli.runtime import graphs
from stcl_cli.runtime.graphs import Replayed, ReplayedWithGradient

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def test_what_cannot_be_recorded_is_done_as_it_is(monkeypatch, capsys):
    def refuse(work):
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    monkeypatch.setattr(graphs, "_warm_up", refuse)
    layer = nn.Linear(2, 1)
    without, with_gradient = Replayed(layer), ReplayedWithGradient(lambda x: [layer(x)], list(layer.parameters()))
    for _ in range(2):
        x = torch.randn(3, 2)
        assert torch.equal(without(x), layer(x))
        assert not without(x).requires_grad
        (out,) = with_gradient(x)
        out.sum().backward()
    assert layer.bias.grad.item() == 6
    line = "stcl: kernels are launched one by one, as they cannot be recorded: operation not permitted when stream is"
    assert capsys.readouterr().err == 2 * f"{line} capturing\n"


@pytest.mark.cuda
@no_gpu
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


@pytest.mark.cuda
@no_gpu
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
