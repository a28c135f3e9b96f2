"""A GPU that is not there: tensors on the CPU that say they are on CUDA, and refuse whatever CUDA refuses.

Within `pretended()` the device "cuda" exists. Its tensors hold a tensor on the CPU, which computes; one that meets a
tensor really on the CPU raises, as on a GPU, and so does NumPy. Backward passes, optimisers and threads work. Where the
host would wait for the GPU (a value, a count, a copy that is not asynchronous) the line of ours is counted.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
PLACES = ("stcl_cli", "stcl_models", "models")  # installed or not
_waits: Counter[str] = Counter()


class OnCuda(torch.Tensor):
    """`real` computes; C++ takes this for a CPU tensor, Python and its callers for one on cuda:0."""

    @staticmethod
    def __new__(cls, real: torch.Tensor) -> OnCuda:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, real.shape, strides=real.stride(), storage_offset=real.storage_offset(), dtype=real.dtype
        )
        tensor.real_ = real
        return tensor

    def __repr__(self) -> str:
        return f"OnCuda({tuple(self.shape)})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return _call(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
        _check(func, args, tensors)
        _count_waits(func, args)
        own = {id(tensor.real_): tensor for tensor in tensors if isinstance(tensor, cls)}
        out = func(*tree_map(_real, args), **tree_map(_real, kwargs))

        def placed(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return value
            return own[id(value)] if id(value) in own else cls(value)

        return tree_map(placed, out)


class _Mode(TorchFunctionMode):
    """For what makes tensors, or takes them to a device."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return _call(func, args, kwargs or {})


def _real(value: Any) -> Any:
    return value.real_ if isinstance(value, OnCuda) else value


def _is_cuda(device: Any) -> bool:
    return isinstance(device, str | torch.device) and torch.device(device).type == "cuda"


def _call(func: Any, args: tuple, kwargs: dict) -> Any:
    name = getattr(func, "__name__", "")
    first = args[0] if args else None
    if isinstance(first, OnCuda):
        if name == "__get__" and func.__self__ in (torch.Tensor.device, torch.Tensor.is_cuda, torch.Tensor.is_cpu):
            answers = {torch.Tensor.device: torch.device("cuda", 0), torch.Tensor.is_cuda: True}
            return answers.get(func.__self__, False)
        if func in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it")
        if func is torch.Tensor.tolist:
            _waited()
            return first.real_.tolist()
        if func is torch.Tensor.new_tensor:
            _waited()
            return OnCuda(func(first.real_, *args[1:], **kwargs))
        if func is torch.nn.functional.one_hot:  # makes a tensor of its own in C++
            return (first[..., None] == OnCuda(torch.arange(args[1]))).long()
    if func is torch.Tensor.pin_memory:
        first.pinned = True
        return first
    if func in (torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.cuda):
        return _to(func, *args, **kwargs)
    if _is_cuda(kwargs.get("device")):
        if func in (torch.tensor, torch.as_tensor):  # from the host, or from there already
            if isinstance(first, OnCuda):
                return func(first, **kwargs | {"device": None})
            _waited()
        made = func(*args, **kwargs | {"device": "cpu"})
        return made if isinstance(made, OnCuda) else OnCuda(made)
    return func(*args, **kwargs)


def _to(func: Any, tensor: torch.Tensor, *args: Any, non_blocking: bool = False, **kwargs: Any) -> torch.Tensor:
    known = dict(zip(("device", "dtype"), args, strict=False)) if args and not isinstance(args[0], torch.dtype) else {}
    if args and not known:
        kwargs["dtype"] = args[0]
    target = known.get("device", kwargs.pop("device", None))
    if len(args) > 2:
        non_blocking = args[2]
    kwargs |= {name: value for name, value in known.items() if name == "dtype" and value is not None}
    if func is not torch.Tensor.to:
        target = "cpu" if func is torch.Tensor.cpu else "cuda"
    if isinstance(target, torch.Tensor):
        kwargs["dtype"], target = target.dtype, "cuda" if isinstance(target, OnCuda) else "cpu"
    there = isinstance(tensor, OnCuda)
    wanted = there if target is None else _is_cuda(target)
    if kwargs.get("dtype") is not None:
        tensor = torch.Tensor.to(tensor, kwargs["dtype"])
    if there == wanted:
        return tensor
    if not (non_blocking and getattr(tensor, "pinned", False)):
        _waited()
    if there:
        return tensor.detach().real_.clone()
    return OnCuda(tensor.detach().clone()).requires_grad_(tensor.requires_grad)


def _check(func: Any, args: tuple, tensors: list[torch.Tensor]) -> None:
    """CUDA takes CPU tensors in copies, as indices, and as single numbers where they are not joined with others."""
    indices = [t for t in args[1] if t is not None] if func.overloadpacket in (aten.index, aten.index_put_) else []
    for tensor in tensors:
        if isinstance(tensor, OnCuda) or func.overloadpacket in (aten.copy_, aten._to_copy):
            continue
        if any(tensor is index for index in indices):
            _waited()
        elif tensor.dim() or func.overloadpacket in (aten.cat, aten.stack):
            raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got cuda:0 and cpu")


def _count_waits(func: Any, args: tuple) -> None:
    packet = func.overloadpacket
    if packet in (
        aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.unique_consecutive,
        aten.bincount, aten.equal,
    ) or func is aten.repeat_interleave.Tensor:  # fmt: skip
        _waited()
    if packet in (aten.index, aten.index_put_):
        for index in args[1]:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                _waited()


def _waited() -> None:
    frame = sys._getframe(1)
    while frame:
        path = Path(frame.f_code.co_filename)
        for place in PLACES:
            if place in path.parts[:-1] and "tests" not in path.parts:
                start = len(path.parts) - 1 - path.parts[::-1].index(place)
                _waits["/".join(path.parts[start:]) + f":{frame.f_lineno} {frame.f_code.co_name}"] += 1
                return
        frame = frame.f_back


def _no_grad(context: torch.inference_mode) -> None:
    """In place of inference mode, which knows no tensors of other classes."""
    context.before = torch.is_grad_enabled()
    torch._C._set_grad_enabled(False)


def _grad_as_before(context: torch.inference_mode, *error: Any) -> None:
    torch._C._set_grad_enabled(context.before)


@contextmanager
def pretended() -> Iterator[Counter[str]]:
    """Gives the waits, by line of ours."""
    _waits.clear()
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # Module.to keeps its parameters, of another class
    try:
        with (
            mock.patch.object(torch.cuda, "device_count", return_value=1),
            mock.patch.multiple(
                torch.cuda, Event=mock.DEFAULT, current_stream=mock.DEFAULT, device=mock.DEFAULT
            ),  # all has happened when it is asked for
            mock.patch.multiple(torch.inference_mode, __enter__=_no_grad, __exit__=_grad_as_before),
            _Mode(),
        ):
            yield _waits
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swapping)
