"""What is done where memory is too small: less at a time, then the CPU in place of the GPU, then the next photo."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from stcl_cli.console import warn
from stcl_cli.errors import PhotoError, is_out_of_memory
from stcl_cli.formats.files import shown
from stcl_cli.runtime import Runtime

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


def too_large(path: Path) -> PhotoError:
    """A photo that there is too little memory for, even alone and on the CPU."""
    return PhotoError(f"{shown(path)}: there is too little memory for it; make it smaller or use fewer workers")


class Network:
    """A network that computes batches of photos; on the CPU what the GPU has too little memory for."""

    def __init__(self, model: nn.Module, runtime: Runtime) -> None:
        self.model, self.runtime = model.to(runtime.device).eval(), runtime
        self.on_cpu: nn.Module | None = None

    def compute(
        self, work: Callable[[nn.Module, Runtime, list[Input]], list[Result]], inputs: list[Input], paths: list[Path]
    ) -> list[Result | PhotoError]:
        """work(model, runtime, inputs) of the photos at `paths`; a PhotoError for one that does not fit anywhere."""
        results = if_it_fits(lambda: work(self.model, self.runtime, inputs))
        if results is None and len(inputs) > 1:
            half = len(inputs) // 2
            parts = (slice(half), slice(half, None))
            return [result for part in parts for result in self.compute(work, inputs[part], paths[part])]
        if results is None and self.runtime.device.type != "cpu":
            if self.on_cpu is None:
                warn(f"{shown(paths[0])}: is too large for the GPU's memory; the CPU takes it, and others like it")
                self.on_cpu = copy.deepcopy(self.model.to(CPU))
                self.model.to(self.runtime.device)
            results = if_it_fits(lambda: work(self.on_cpu, Runtime(CPU, None), inputs))
        return [too_large(paths[0])] if results is None else results
