"""Measuring a machine: its rate of matrix products, the peak of memory, a rate from the times of items."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from stcl_cli.runtime.device import Runtime

_MB = 2**20
# Matrices large enough for the full rate: on the CPU still in its cache, on a GPU many tiles for each processor.
_SIDE = {"cpu": 1024, "cuda": 8192}


def matrix_rate(runtime: Runtime, seconds: float = 1.0) -> float:
    """GFLOP/s of products of square matrices in the runtime's precision, the best of up to ten measurements.

    Fewer where a machine is so slow that ten would take more than three times `seconds`.
    The best, since what else the machine does only makes it slower: an efficiency measured by it is not flattered.
    """
    side = _SIDE[runtime.device.type]
    a = torch.randn(side, side, device=runtime.device, dtype=runtime.amp or torch.float32)
    out = a @ a
    started = time.perf_counter()
    took = _seconds(lambda: torch.mm(a, a, out=out), runtime)
    products = max(1, round(seconds / 10 / took))

    def work() -> None:
        for _ in range(products):
            torch.mm(a, a, out=out)

    found: list[float] = []
    while not found or (len(found) < 10 and time.perf_counter() - started < 3 * seconds):
        found.append(_seconds(work, runtime))
    return products * 2 * side**3 / min(found) / 1e9


def _seconds(work: Callable[[], object], runtime: Runtime) -> float:
    _wait_for(runtime)
    started = time.perf_counter()
    work()
    _wait_for(runtime)
    return time.perf_counter() - started


def _wait_for(runtime: Runtime) -> None:
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)


class PeakMemory:
    """The most memory held since this was made: a GPU's by tensors; on the CPU that of this process.

    Where the system is not Linux, or lets no peak be set back, the CPU's counts from the start of the process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def megabytes(self) -> int:
        """In MB of 2^20 bytes."""
        if self.device.type == "cuda":
            return round(torch.cuda.max_memory_allocated(self.device) / _MB)
        if sys.platform == "linux":
            return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024
        unit = _MB if sys.platform == "darwin" else 1024
        return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def steady_rate(times: Sequence[float], batch: int) -> float:
    """Items a second from the times at which they came, in batches of which the last may be smaller.

    Without the first and the last batch: the first one waits for the start, and each but the last comes when the next
    one has been computed, so the last comes at once. At least three batches.
    """
    return (len(times) - 2 * batch) / (times[-1 - batch] - times[batch - 1])
