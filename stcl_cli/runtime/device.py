"""Where and how a network runs: device, mixed precision, seeds, worker processes; tensors to a GPU and back."""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stcl_cli.console import warn
from stcl_cli.errors import StclError
from stcl_cli.runtime.launch import launch

# More reading processes than cores are what --workers asked for; PyTorch would say so in four lines for each loader.
warnings.filterwarnings("ignore", message="This DataLoader will create")

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


@dataclass(frozen=True)
class Runtime:
    """A device with the precision to compute in."""

    device: torch.device
    amp: torch.dtype | None

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.amp is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.amp)


def make_runtime(device: str, amp: str = "off") -> Runtime:
    """StclError if the device is not there."""
    chosen = pick_device(device)
    if amp == "auto":
        # From Ampere on; an older GPU imitates bf16, slower than float32, and cuDNN has no convolutions of it there.
        amp = "bf16" if chosen.type == "cuda" and torch.cuda.get_device_capability(chosen) >= (8, 0) else "off"
    if chosen.type == "cuda":
        torch.backends.cudnn.allow_tf32 = False  # convolutions in float32 are meant so, as matrix products are
    if chosen.type == "cpu":
        if amp == "bf16" and not _has_bf16():
            warn("--amp bf16: this CPU only imitates bf16, many times slower than float32; give --amp off")
        _keep_freed_memory()
    return Runtime(chosen, torch.bfloat16 if amp == "bf16" else None)


def _has_bf16() -> bool:
    """Whether the CPU computes in bf16; True where it is not known (PyTorch before 2.11, other processors than x86)."""
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(has.get(name, True) for name in ("avx512_bf16", "amx_bf16"))


def _keep_freed_memory() -> None:
    """Let glibc use freed blocks again, up to 2 GB of them.

    By default it hands large ones back to the system, which clears each page anew for the next layer: 13 % of the time
    of a CAM export with DeiT-tiny.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def pick_device(name: str) -> torch.device:
    """'auto', 'cpu', 'cuda' or 'cuda:N' -> device; a GPU becomes PyTorch's current one.

    Processes that were started together share a machine's GPUs out.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise StclError(f"--device {name}: not a device; give auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise StclError(f"--device {name}: only cpu and cuda are supported")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise StclError(
            f"--device {name}: this machine shows {found} CUDA device{'' if found == 1 else 's'}; give --device cpu"
        )
    if device.type == "cuda" and device.index is None and launch().ranks > 1:
        device = torch.device("cuda", launch().local_rank % torch.cuda.device_count())
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # streams, events, graphs and pinned memory are the current device's
    return device


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """From the CPU to a device; to a GPU without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def fetch(tensor: Tensor) -> Callable[[], np.ndarray]:
    """Starts to bring a tensor from a GPU; what is given waits for it, and not for what was launched since then."""
    there = tensor.to("cpu", non_blocking=True)
    if not tensor.is_cuda:
        return there.numpy
    arrived = torch.cuda.Event(blocking=True)  # a thread that waits sleeps
    arrived.record(torch.cuda.current_stream(tensor.device))
    device = tensor.device

    def wait() -> np.ndarray:
        with torch.cuda.device(device):  # a thread's own is the first GPU, where waiting would set up memory
            arrived.synchronize()
        return there.numpy()

    return wait


def seed_everything(*numbers: int) -> None:
    """Seed every random generator from a few numbers; (seed, iteration) makes a training step repeatable on its own."""
    state = np.random.SeedSequence(numbers).generate_state(2, np.uint64)
    torch.manual_seed(int(state[0] >> 1))
    np.random.seed(int(state[1] % 2**32))
    random.seed(int(state[1]))


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
