"""Several processes that train as one: joining, leaving, and what they do together.

Each rank takes an equal part of the batch. Parameters stay equal bit for bit, because every rank makes the same step
from gradients averaged over all. Where a loss divides by a count of the whole batch (`sum_over_ranks`), each rank
computes `ranks()` times its part, so that the mean over ranks is the loss of the whole batch. In one process every
function here is the identity.
"""

from __future__ import annotations

import functools
import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stcl_cli.console import warn
from stcl_cli.errors import EXIT_ERROR, StclError, is_out_of_memory
from stcl_cli.runtime.launch import launch
from stcl_cli.wording import first_line

BEAT = 2.0  # seconds between signs of life
SILENCE = 30.0  # seconds after which a rank that gives none is taken for dead
MEETING = timedelta(minutes=10)  # for all ranks to come, and for the slowest to reach a common step

Result = TypeVar("Result")


def rank() -> int:
    """This process among those that joined, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def ranks() -> int:
    """How many joined."""
    return dist.get_world_size() if dist.is_initialized() else 1


def devices(device: torch.device) -> str:
    """'cpu', or '4 x cuda'."""
    return str(device) if ranks() == 1 else f"{ranks()} x {device.type}"


# ---- joining and leaving -------------------------------------------------------------------------------------------


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Inside, the processes that torchrun or srun started are one run; a single process is left alone.

    A rank that stops or dies ends the others: at once where they wait for it, else within SILENCE.

    Raises:
        StclError: not all ranks came, or one was lost.
    """
    started = launch()
    if started.ranks == 1:
        yield
        return
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise StclError(f"{name} says where the processes meet, and is not set; see examples/slurm.sh")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, rank=started.rank, world_size=started.ranks, timeout=MEETING)
        watch = _Watch(started.rank, started.ranks)
    except (RuntimeError, ValueError) as error:
        raise StclError(f"the {started.ranks} processes did not find together ({first_line(error)})") from error
    watch.start()
    try:
        _check_own_gpu(device)
        yield
        wait_for_all()  # with signs of life: the first rank may still write its last checkpoint
        watch.leaving.set()
        wait_for_all()  # none goes before the others know
    except BaseException as error:
        watch.leaving.set()
        watch.say_why(error)
        raise  # without taking leave, for which some libraries wait for the others
    dist.destroy_process_group()


class _Watch(threading.Thread):
    """Gives signs of life, looks for those of the others, and ends this process when one of them has gone.

    A thread, because a rank that waits for a dead one may wait inside a library that hears no signal.
    """

    def __init__(self, rank: int, ranks: int) -> None:
        super().__init__(daemon=True)
        self.rank, self.ranks = rank, ranks
        self.leaving = threading.Event()
        # A connection of its own: the first one is busy while its owner waits.
        store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
        self.store = dist.PrefixStore(f"stcl/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)

    def run(self) -> None:
        # Silence is counted in beats of one's own: a run that was stopped, with Ctrl-Z say, has not waited meanwhile.
        beats = {other: (0, 0) for other in range(self.ranks) if other != self.rank}
        while not self.leaving.wait(BEAT):
            try:
                self.store.add(f"beat/{self.rank}", 1)
                if self.store.check(["stopped"]):
                    self._end(self.store.get("stopped").decode())
                for other, (last, missed) in beats.items():
                    beat = self.store.add(f"beat/{other}", 0)
                    beats[other] = beat, 0 if beat != last else missed + 1
                    if missed * BEAT > SILENCE:
                        self._end(f"process {other} gives no sign of life")
            except RuntimeError:  # whoever kept the store has gone
                self._end("the process that the others meet at has ended")

    def say_why(self, error: BaseException) -> None:
        """Leave word for the others."""
        why = "by a signal" if isinstance(error, KeyboardInterrupt) else f"({first_line(error)})"
        with suppress(RuntimeError):
            reason = f"process {self.rank} stopped {why}"
            self.store.compare_set("stopped", "", reason)  # the first counts

    def _end(self, reason: str) -> None:
        if not self.leaving.is_set():
            warn(f"process {self.rank} of {self.ranks}: {reason}, so this one ends too; go on with --resume")
            os._exit(EXIT_ERROR)


# ---- together -------------------------------------------------------------------------------------------------------


def _together(function: Callable[..., Result]) -> Callable[..., Result]:
    """A lost rank becomes one line."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Result:
        try:
            return function(*arguments)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise StclError(
                f"another process of this run has ended; go on with --resume ({first_line(error)})"
            ) from error

    return call


@_together
def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of all ranks' `values`, of the same shape on each; no gradient."""
    if ranks() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


@_together
def max_over_ranks(values: Tensor) -> Tensor:
    """The largest of all ranks' `values`, element by element, of the same shape on each; no gradient."""
    if ranks() == 1:
        return values
    largest = values.detach().clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest


@_together
def all_gather_rows(*columns: Tensor) -> tuple[Tensor, ...]:
    """All ranks' rows of each column (N, ...) in rank order; N may differ by rank and may be 0. No gradient."""
    if ranks() == 1:
        return columns
    count, device = len(columns[0]), columns[0].device
    counts = list(torch.zeros(ranks(), 1, dtype=torch.int64, device=device))
    dist.all_gather(counts, torch.tensor([count], device=device))
    sizes = torch.cat(counts).tolist()
    gathered = []
    for column in columns:
        padded = column.new_zeros(max(sizes), *column.shape[1:])
        padded[:count] = column.detach()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        gathered.append(torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]))
    return tuple(gathered)


def all_gather_bytes(data: bytes) -> bytes:
    """All ranks' bytes in rank order: lines of text, say."""
    (gathered,) = all_gather_rows(torch.tensor(list(data), dtype=torch.uint8))
    return bytes(gathered.tolist())


@_together
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Every gradient becomes its mean over all ranks."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if ranks() == 1 or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= ranks()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def wait_for_all() -> None:
    """Until every rank is here."""
    sum_over_ranks(torch.zeros(1))


@_together
def from_first_rank(tensors: Iterable[Tensor]) -> None:
    """Every rank's tensors take the values of the first rank's."""
    if ranks() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)


def check_same(what: str, *texts: str) -> None:
    """StclError unless all ranks give the same texts: what they have read may lie on disks of their own."""
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
    if len(set(all_gather_bytes(f"{digest}\n".encode()).split())) > 1:
        raise StclError(f"the {ranks()} processes do not see the same {what}; give them the same files")


def _check_own_gpu(device: torch.device) -> None:
    """StclError if two ranks compute on one GPU, which NCCL does not take part in."""
    # Its uuid, and not its number: Slurm may show each process another GPU as cuda:0.
    properties = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    gpu = str(getattr(properties, "uuid", rank()))  # PyTorch 2.4 does not know it
    if len(set(all_gather_bytes(f"{gpu}\n".encode()).split(b"\n")[:-1])) < ranks():
        raise StclError("two processes are on one GPU; start as many as there are GPUs, or give --device cpu")


# ---- batch normalisation over all ranks ------------------------------------------------------------------------------


def synchronise_batch_norm(model: nn.Module) -> None:
    """In training, BatchNorm takes mean and variance over the photos of all ranks.

    torch.nn.SyncBatchNorm does so on CUDA only, and not where timm joins an activation to the layer.
    """
    if ranks() > 1:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.forward = functools.partial(_forward_over_ranks, module)


def _forward_over_ranks(module: nn.modules.batchnorm._BatchNorm, x: Tensor) -> Tensor:
    if not module.training:
        return type(module).forward(module, x)
    axes, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
    values = x.float()
    mean_C = _MeanOverRanks.apply(values.mean(axes))
    centred = values - mean_C.view(shape)
    variance_C = _MeanOverRanks.apply(centred.square().mean(axes))
    if module.running_mean is not None:
        with torch.no_grad():
            count = ranks() * x.numel() // x.shape[1]
            module.num_batches_tracked += 1
            module.running_mean.lerp_(mean_C, module.momentum)
            module.running_var.lerp_(variance_C * count / (count - 1), module.momentum)
    result = centred * (variance_C.view(shape) + module.eps).rsqrt()
    if module.affine:
        result = result * module.weight.view(shape) + module.bias.view(shape)
    result = result.to(x.dtype)
    for name in ("drop", "act"):  # of timm's BatchNormAct2d
        result = getattr(module, name)(result) if hasattr(module, name) else result
    return result


class _MeanOverRanks(torch.autograd.Function):
    """The mean of all ranks' values; every rank has a share in every rank's loss, so gradients take the same way."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return sum_over_ranks(values) / ranks()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        return sum_over_ranks(gradient) / ranks()
