"""What is done where memory is too small: less at a time, then the CPU in place of the GPU, then the next photo."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from stcl_cli.console import warn
from stcl_cli.errors import PhotoError, is_out_of_memory
from stcl_cli.runtime.device import Runtime
from stcl_cli.wording import shown

CPU = torch.device("cpu")
Input = TypeVar("Input")
Result = TypeVar("Result")


def if_it_fits(work: Callable[[], Result]) -> Result | None:
    """What `work` gives, or None where there is too little memory for it; what it held is free again then."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # behind the exception, which kept the tensors alive
    return None


@dataclass
class Halvings:
    """How often the batches of a run have to be halved, as far as is known: the next one begins with that."""

    known: int = 0


def what_fits(
    works: Sequence[Callable[[list[Input]], list[Result]]], inputs: list[Input], halvings: Halvings, done: int = 0
) -> list[Result | None]:
    """What the first of `works` gives for the inputs, which have been halved so often.

    Where there is too little memory half of them at a time; for a single one what the next of `works` gives; None for
    one that none of them has room for.
    """
    several = len(inputs) > 1
    results = None if several and done < halvings.known else if_it_fits(lambda: works[0](inputs))
    if results is None and several:
        half = len(inputs) // 2
        return [
            result for part in (inputs[:half], inputs[half:]) for result in what_fits(works, part, halvings, done + 1)
        ]
    if results is None:
        return what_fits(works[1:], inputs, halvings) if works[1:] else [None]
    if several:  # not of a single one, which may be the only one that is too large
        halvings.known = max(halvings.known, done)
    return results


def too_large(path: Path) -> PhotoError:
    """A photo that there is too little memory for, even alone and on the CPU."""
    return PhotoError(f"{shown(path)}: there is too little memory for it; make it smaller or use fewer workers")


class Network:
    """A network that computes batches of photos; on the CPU what the GPU has too little memory for."""

    def __init__(self, model: nn.Module, runtime: Runtime) -> None:
        self.model, self.runtime = model.to(runtime.device).eval(), runtime
        self.on_cpu: nn.Module | None = None
        self.halvings = Halvings()

    def compute(
        self, work: Callable[[nn.Module, Runtime, list[Input]], list[Result]], inputs: list[Input], paths: list[Path]
    ) -> list[Result | PhotoError]:
        """work(model, runtime, inputs) of the photos at `paths`; a PhotoError for one that does not fit anywhere."""

        def here(pairs: list[tuple[Input, Path]]) -> list[Result]:
            return work(self.model, self.runtime, [one for one, _ in pairs])

        def on_cpu(pairs: list[tuple[Input, Path]]) -> list[Result]:
            if self.on_cpu is None:
                warn(f"{shown(pairs[0][1])}: is too large for the GPU's memory; the CPU takes it, and others like it")
                self.on_cpu = copy.deepcopy(self.model.to(CPU))
                self.model.to(self.runtime.device)
            return work(self.on_cpu, Runtime(CPU, None), [one for one, _ in pairs])

        works = [here] if self.runtime.device.type == "cpu" else [here, on_cpu]
        results = what_fits(works, list(zip(inputs, paths, strict=True)), self.halvings)
        return [too_large(path) if result is None else result for result, path in zip(results, paths, strict=True)]
