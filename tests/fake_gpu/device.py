"""CUDA tensors without a GPU: in the host's memory (runtime.c), and each operator is computed by the CPU's kernel.

What a GPU would refuse is refused: tensors of two devices in an operator, a wait for the GPU while a graph is recorded.
`waits` counts where the CPU waits for the GPU. Speed, memory and the rounding of a GPU's kernels it cannot show.
"""

from __future__ import annotations

import ctypes
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import stcl_cli
import stcl_models

FOLDERS = tuple(Path(package.__file__).parent for package in (stcl_cli, stcl_models))  # of what is ours

aten = torch.ops.aten

MEMORY_ALONE = {  # PyTorch does these itself: they launch no kernel
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.resize_.default,
    aten.record_stream.default,
    aten.is_pinned.default,
    aten.set_.source_Storage,
    aten.set_.source_Tensor,
}
WAITS = {  # the size or the value of what they give is only known when it is there
    aten._local_scalar_dense.default,
    aten._unique2.default,
    aten.bincount.default,
    aten.equal.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
}
INDEXING = {
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
}

waits: Counter[tuple[str, str]] = Counter()  # (operator, line of stcl's) -> how often
replays = 0
_recording: list[tuple] | None = None


def install() -> None:
    """From now on, in all threads that begin."""
    torch.cuda.init()
    torch.cuda.CUDAGraph, torch.cuda.graph = Graph, record
    for choose in ("flash", "mem_efficient", "cudnn"):  # attention by products, which the CPU has too
        getattr(torch.backends.cuda, f"enable_{choose}_sdp")(False)
    torch.backends.cudnn.enabled = False
    run = threading.Thread.run

    def run_with_it(thread: threading.Thread) -> None:
        with FakeGpu():
            run(thread)

    threading.Thread.run = run_with_it
    FakeGpu().__enter__()


class FakeGpu(TorchDispatchMode):
    def __torch_dispatch__(self, operator: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if torch._C._dispatch_has_kernel_for_dispatch_key(operator.name(), "CompositeImplicitAutograd"):
            with self:  # without autograd it comes whole
                result = operator.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return _dispatch(operator, args, kwargs)


class Graph:
    """In place of torch.cuda.CUDAGraph."""

    calls: list[tuple]

    def pool(self) -> None:
        return None

    def replay(self) -> None:
        global replays
        replays += 1
        for operator, args, kwargs, results in self.calls:
            for old, new in zip(results, tree_leaves(_on_host(operator, args, kwargs)[0]), strict=True):
                if isinstance(old, Tensor) and old.numel() and _host(old).data_ptr() != new.data_ptr():
                    _host(old).copy_(new)


@contextmanager
def record(graph: Graph, pool: Any = None, capture_error_mode: str = "global") -> Iterator[None]:
    """In place of torch.cuda.graph."""
    global _recording
    _recording = []
    try:
        yield
    finally:
        graph.calls, _recording = _recording, None


def _dispatch(operator: Any, args: tuple, kwargs: dict) -> Any:
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    target = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
    on_gpu = any(map(_is_cuda, tensors))
    if not on_gpu and target != "cuda":
        return operator(*args, **kwargs)
    if operator in MEMORY_ALONE or _is_view(operator):
        return operator(*args, **kwargs)
    if operator is aten._to_copy.default:
        if target and (target == "cuda") != on_gpu:
            _wait(f"copy to {target}", counts=not (kwargs.get("non_blocking") and (on_gpu or args[0].is_pinned())))
    elif operator is aten.copy_.default:
        if _is_cuda(args[0]) != _is_cuda(args[1]):
            _wait("copy_ between devices", counts=not (len(args) > 2 and args[2]))
    else:
        _refuse_mixed(operator, args, tensors)
        if any(isinstance(leaf, torch.Generator) and leaf.device.type == "cpu" for leaf in leaves):
            raise RuntimeError(f"expected a generator on cuda: {operator}")
        masks = [leaf for leaf in tensors[1:] if leaf.dtype in (torch.bool, torch.uint8)]
        if operator in WAITS or (operator in INDEXING and masks):
            _wait(str(operator))
    result, given = _on_host(operator, args, kwargs)

    def device_of(tensor: Any) -> Any:
        if not isinstance(tensor, Tensor):
            return tensor
        return given[id(tensor)] if id(tensor) in given else tensor if target == "cpu" else _copy_to_gpu(tensor)

    result = tree_map(device_of, result)
    if _recording is not None:
        _recording.append((operator, args, kwargs, tree_leaves(result)))
    return result


def _on_host(operator: Any, args: tuple, kwargs: dict) -> tuple[Any, dict[int, Tensor]]:
    """What it gives with the CPU's kernel, and which tensor each one is that was given to it, by id."""
    given: dict[int, Tensor] = {}

    def host(leaf: Any) -> Any:
        if isinstance(leaf, torch.Generator):
            return None
        if not isinstance(leaf, Tensor):
            return leaf
        tensor = _host(leaf)
        given[id(tensor)] = leaf
        kept.append(tensor)  # or another one could have its id
        return tensor

    kept: list[Tensor] = []
    if operator is aten.copy_.default:
        args, kwargs = args[:2], {}
    kwargs = {name: value for name, value in kwargs.items() if name not in ("device", "pin_memory", "non_blocking")}
    result = operator(*tree_map(host, args), **tree_map(host, kwargs))
    if operator is aten._to_copy.default and result.data_ptr() == kept[0].data_ptr():
        result = result.clone()
    return result, given


def _host(tensor: Tensor) -> Tensor:
    """A CUDA tensor's memory as a tensor of the CPU."""
    if not _is_cuda(tensor):
        return tensor
    storage = tensor.untyped_storage()
    if not storage.nbytes():
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    ours = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    return torch.empty(0, dtype=tensor.dtype).set_(ours, tensor.storage_offset(), tensor.size(), tensor.stride())


def _copy_to_gpu(tensor: Tensor) -> Tensor:
    copy = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cuda:0")
    if copy.numel():
        _host(copy).copy_(tensor)
    return copy


def _is_cuda(tensor: Tensor) -> bool:
    return tensor.device.type == "cuda"


def _is_view(operator: Any) -> bool:
    """By its schema: what it gives is what it was given, seen in another way."""
    aliases = [argument.alias_info for argument in operator._schema.arguments if argument.alias_info is not None]
    given = any(result.alias_info is not None for result in operator._schema.returns)
    return given and any(not alias.is_write for alias in aliases)


def _refuse_mixed(operator: Any, args: tuple, tensors: list[Tensor]) -> None:
    """Numbers may be on the CPU, and so may an index; the GPU is waited for then."""
    values = args[2] if operator in INDEXING and len(args) > 2 else None  # of index_put
    if values is not None and not values.dim() and not _is_cuda(values):
        _wait(f"{operator} of a number")
    strangers = [tensor for tensor in tensors if not _is_cuda(tensor) and tensor.dim()]
    if not strangers:
        return
    if operator not in INDEXING or not _is_cuda(args[0]) or any(stranger is values for stranger in strangers):
        devices = [(tensor.device.type, tuple(tensor.shape)) for tensor in tensors]
        raise RuntimeError(f"Expected all tensors to be on the same device: {operator} {devices}")
    _wait(f"{operator} with an index from the CPU")


def _wait(reason: str, counts: bool = True) -> None:
    if _recording is not None:
        raise RuntimeError(f"operation not permitted when stream is capturing: {reason}")
    if counts:
        paths = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_stack()]
        ours = [f"{path.name}:{line}" for path, line in paths if any(path.is_relative_to(place) for place in FOLDERS)]
        waits[reason, ours[-1] if ours else "elsewhere"] += 1
