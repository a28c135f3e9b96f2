import copy
import os
import signal
import subprocess
import time
from types import SimpleNamespace

import pytest
import torch
from ranks import Ended, run_ranks
from timm.layers import BatchNormAct2d
from torch import nn

from stcl_cli.errors import StclError
from stcl_cli.runtime import distributed

CPU = torch.device("cpu")


def together(count, function, *arguments):
    """The results of function(rank, ...) in processes that joined."""

    def run(rank):
        with distributed.joined(CPU):
            assert (distributed.rank(), distributed.ranks()) == (rank, count)
            return function(rank, *arguments)

    return run_ranks(count, run)


def test_alone_everything_is_the_identity(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    rows = torch.rand(3, 2)
    with distributed.joined(CPU):
        assert (distributed.rank(), distributed.ranks()) == (0, 1)
        assert distributed.all_gather_rows(rows)[0] is rows
        assert distributed.sum_over_ranks(rows) is rows
        assert distributed.max_over_ranks(rows) is rows
        assert distributed.all_gather_bytes(b"one\n") == b"one\n"
        parameter = nn.Parameter(rows)
        parameter.grad = rows.clone()
        distributed.average_gradients([parameter])
        assert parameter.grad.equal(rows)
        distributed.check_same("photos", "a")


ROWS = {
    "floats": lambda rank: torch.arange(2.0 * rank).view(rank, 2),
    "none at all": lambda rank: torch.zeros(0, 4),
    "flags": lambda rank: torch.ones(3 - rank, dtype=torch.bool),
    "half": lambda rank: torch.full((rank + 1, 2, 1), rank, dtype=torch.bfloat16),
    "numbers": lambda rank: torch.tensor([rank] * 2),
}


def test_rows_of_all_ranks_in_their_order():
    def gather(rank):
        return {name: distributed.all_gather_rows(rows(rank))[0].tolist() for name, rows in ROWS.items()}

    expected = {name: torch.cat([rows(rank) for rank in range(3)]).tolist() for name, rows in ROWS.items()}
    assert together(3, gather) == [expected] * 3


def test_text_sums_largest_values_and_gradients():
    def all_four(rank):
        parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3, 1)), nn.Parameter(torch.zeros(1))]
        parameters[0].grad = torch.tensor([rank, 1.0])
        parameters[1].grad = torch.full((3, 1), 4.0 * rank)
        distributed.average_gradients(parameters)
        gradients = [p.grad.flatten().tolist() for p in parameters[:2]]
        assert parameters[2].grad is None
        text = distributed.all_gather_bytes(b"" if rank == 0 else "bär\n".encode())
        values = torch.tensor([rank, 2])
        sums, largest = distributed.sum_over_ranks(values).tolist(), distributed.max_over_ranks(values).tolist()
        assert values.tolist() == [rank, 2]
        return text, sums, largest, gradients

    assert together(2, all_four) == [("bär\n".encode(), [1, 4], [1, 2], [[0.5, 1.0], [2.0, 2.0, 2.0]])] * 2


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False), BatchNormAct2d(3)])
def test_batch_norm_over_ranks_is_that_of_one_process(layer):
    """Values, gradients of parameters and input, running statistics, and both modes."""
    torch.manual_seed(0)
    x, target = torch.randn(4, 3, 5, 2) * 3 + 100, torch.randn(4, 3, 5, 2)
    if layer.affine:
        nn.init.normal_(layer.weight)

    def outcome(layer, x, target):
        layer = copy.deepcopy(layer)
        distributed.synchronise_batch_norm(nn.Sequential(layer))
        x = x.clone().requires_grad_()
        y = layer(x)
        (y - target).square().mean().backward()
        distributed.average_gradients(layer.parameters())
        statistics = [buffer.clone() for buffer in layer.buffers()]
        later = layer.eval()(x)
        return (
            y.detach(),
            x.grad / distributed.ranks(),
            later.detach(),
            [p.grad for p in layer.parameters()],
            statistics,
        )

    def half(rank):
        y, grad, later, *rest = outcome(layer, x[2 * rank :][:2], target[2 * rank :][:2])
        y, grad, later = distributed.all_gather_rows(y, grad, later)
        return [tensor.tolist() for tensor in (y, grad, later, *rest[0], *rest[1])]

    y, grad, later, *rest = outcome(layer, x, target)
    expected = [tensor.tolist() for tensor in (y, grad, later, *rest[0], *rest[1])]
    for result in together(2, half):
        for ours, theirs in zip(result, expected, strict=True):
            torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-4, atol=1e-5)


def test_different_files_on_different_machines_are_noticed():
    def look(rank):
        distributed.check_same("classes", "cat", "dog")
        distributed.check_same("photos", "a", f"b{rank}")

    for error in together(2, look):
        assert "the 2 processes do not see the same photos" in str(error)


@pytest.mark.parametrize("gpus", [["A", "B"], ["A", "A"]])
def test_two_processes_on_one_gpu(monkeypatch, gpus):
    """Each process sees its GPU as cuda:0; NCCL, of which there is none here, would say nothing that helps."""

    def meet(rank):
        properties = SimpleNamespace(uuid=gpus[rank])
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        init = distributed.dist.init_process_group
        monkeypatch.setattr(distributed.dist, "init_process_group", lambda backend, **how: init("gloo", **how))
        with distributed.joined(torch.device("cuda:0")):
            return "joined"

    results = run_ranks(2, meet)
    if gpus == ["A", "B"]:
        assert results == ["joined"] * 2
    else:
        assert all(str(r).startswith("two processes are on one GPU; start as many") for r in results), results


def test_a_rank_that_dies_ends_the_other_with_one_line():
    def die(rank):
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        distributed.sum_over_ranks(torch.ones(1))

    started = time.monotonic()
    first, second = together(2, die)
    assert time.monotonic() - started < 60
    assert isinstance(first, StclError)
    assert "another process of this run has ended; go on with --resume" in str(first)
    assert "\n" not in str(first)
    assert second.args == (-signal.SIGKILL,)


@pytest.mark.parametrize("how", ["stops", "raises", "is interrupted"])
def test_a_rank_that_nobody_waits_for_ends_the_others_too(how, monkeypatch, capfd):
    monkeypatch.setattr(distributed, "BEAT", 0.1)
    monkeypatch.setattr(distributed, "SILENCE", 1.0)

    def work(rank):
        if rank == 0:
            time.sleep(100)
        elif how == "raises":
            raise StclError("photos: are gone")
        elif how == "is interrupted":
            raise KeyboardInterrupt
        else:
            # a helper ends the stopped process after a while, or nobody could
            subprocess.Popen(["bash", "-c", f"sleep 4; kill -9 {os.getpid()}"])
            os.kill(os.getpid(), signal.SIGSTOP)

    started = time.monotonic()
    first, _ = together(2, work)
    assert time.monotonic() - started < 60
    assert isinstance(first, Ended)
    assert first.args == (1,)
    why = {"stops": "gives no sign of life", "raises": "stopped (photos: are gone)"}.get(how, "stopped by a signal")
    line = f"stcl: process 0 of 2: process 1 {why}, so this one ends too; go on with --resume\n"
    assert line in capfd.readouterr().err


def test_a_rank_that_is_done_gives_signs_of_life_until_the_first_has_written_its_checkpoint(monkeypatch):
    monkeypatch.setattr(distributed, "BEAT", 0.1)
    monkeypatch.setattr(distributed, "SILENCE", 1.0)

    def work(rank):
        time.sleep(4 if rank == 0 else 0)
        return rank

    assert together(2, work) == [0, 1]


def test_where_to_meet_must_be_known(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    with pytest.raises(StclError, match=r"MASTER_PORT says where .*examples/slurm.sh"), distributed.joined(CPU):
        pass
