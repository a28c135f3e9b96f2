"""CUDA graphs: kernels that a CPU would launch one by one, recorded once and then launched together.

A ViT's pass over a few photos keeps a GPU busy for less time than its kernels take to launch. What is recorded here has
no choices that depend on values, and inputs of one shape.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from stcl_cli.console import warn
from stcl_cli.wording import first_line

# Said once of parameters that were met while recording, on a stream of its own: nothing is lost by it.
warnings.filterwarnings("ignore", message="The AccumulateGrad node's stream")

WARM_UP = 3  # calls before recording, in which libraries choose their kernels and take their memory

Output = TypeVar("Output")


class Replayed(Generic[Output]):
    """`work` without gradients. What a call gives is overwritten by the next one.

    Where it cannot be recorded, for too little memory or in a network that waits for the GPU, it is done as it is.
    """

    def __init__(self, work: Callable[..., Output]) -> None:
        self.work, self.inputs, self.output = work, [], None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.refused = False

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> Output:
        if self.graph is None and not self.refused:
            self.refused = not _recorded(lambda: self._record(inputs))
        if self.refused:
            return self.work(*inputs)
        _copy(inputs, self.inputs)
        self.graph.replay()
        return self.output

    def _record(self, inputs: Sequence[Tensor]) -> None:
        self.inputs = [tensor.clone() for tensor in inputs]
        _warm_up(lambda: self.work(*self.inputs))
        with _recording() as graph:
            self.output = self.work(*self.inputs)
        self.graph = graph


class ReplayedWithGradient:
    """`work`, of one tensor that asks for no gradient, with the gradients of `parameters`; its outputs are tensors.

    What a call gives, and the gradients, are overwritten by the next one: step before calling again. Where it cannot
    be recorded it is done as it is.
    """

    def __init__(self, work: Callable[[Tensor], Sequence[Tensor]], parameters: Sequence[nn.Parameter]) -> None:
        self.work, self.parameters = work, tuple(parameters)
        self.forward: torch.cuda.CUDAGraph | None = None
        self.backward: torch.cuda.CUDAGraph | None = None
        self.refused = False

    def __call__(self, given: Tensor) -> tuple[Tensor, ...]:
        if self.backward is None and not self.refused:
            self.refused = not _recorded(lambda: self._record(given))
            if self.refused:
                self.outputs = self.of_outputs = ()  # what they hold is memory
        if self.refused:
            return tuple(self.work(given))
        return _Replay.apply(self, given, *self.parameters)

    def _record(self, given: Tensor) -> None:
        self.input = given.clone()

        def gradients() -> tuple[Tensor | None, ...]:
            return torch.autograd.grad(self.outputs, self.parameters, self.of_outputs, allow_unused=True)

        def both() -> None:
            self.outputs = tuple(self.work(self.input))
            self.of_outputs = [torch.zeros_like(output) for output in self.outputs]
            gradients()

        _warm_up(both)
        with _recording() as forward:
            self.outputs = tuple(self.work(self.input))
        with _recording(forward.pool()) as backward:
            self.of_parameters = gradients()
        self.outputs = tuple(output.detach() for output in self.outputs)
        self.forward, self.backward = forward, backward


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, replayed: ReplayedWithGradient, given: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        context.replayed = replayed
        replayed.input.copy_(given)
        replayed.forward.replay()
        return tuple(output.detach() for output in replayed.outputs)

    @staticmethod
    def backward(context: Any, *of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        replayed = context.replayed
        _copy(of_outputs, replayed.of_outputs)
        replayed.backward.replay()
        return None, None, *(None if grad is None else grad.detach() for grad in replayed.of_parameters)


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def _recorded(record: Callable[[], None]) -> bool:
    """Whether it went well."""
    try:
        record()
    except RuntimeError as error:  # also too little memory
        warn(f"kernels are launched one by one, as they cannot be recorded: {first_line(error)}")
        return False
    return True


def _warm_up(work: Callable[[], object]) -> None:
    """On a stream of its own, as CUDA asks for before recording."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(stream)


@contextmanager
def _recording(pool: Any = None) -> Iterator[torch.cuda.CUDAGraph]:
    """Other threads, such as the loader's that pins memory, go on meanwhile."""
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            yield graph
    finally:
        torch.cuda.set_stream(before)  # PyTorch does not go back to it where recording failed
