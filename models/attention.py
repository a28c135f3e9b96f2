"""Attention in bfloat16 on the CPU, several times as fast as PyTorch's own kernel there.

Shapes: B images, A heads, N tokens, D width of a head, G = B * A.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

CACHED = 2**19  # scores (1 MB in bfloat16) worked on at once: they stay in a core's cache between the products


class CpuAttention(TorchFunctionMode):
    """While it is entered, scaled_dot_product_attention of bfloat16 tensors on the CPU goes through `attention`.

    On an AMD EPYC with avx512_bf16 PyTorch's own kernel takes 1.4 to 2.5 times as long forward, and 2.4 to 25 times as
    long forward and backward. Everything else (other types and devices, masks, dropout) stays PyTorch's.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and len(args) == 3 and _is_plain(*args, **kwargs):
            return attention(*args)
        return func(*args, **kwargs)


def take_over(vit: nn.Module) -> list[RemovableHandle]:
    """Have a timm ViT's attention layers enter CpuAttention on the CPU, also where a backward pass repeats them."""
    handles = []
    for module in vit.modules():
        if hasattr(module, "fused_attn"):
            handles.append(module.register_forward_pre_hook(_enter))
            handles.append(module.register_forward_hook(_leave, always_call=True))
    return handles


_mode = CpuAttention()


def _enter(module: nn.Module, inputs: tuple) -> None:
    if inputs[0].device.type == "cpu":
        _mode.__enter__()


def _leave(module: nn.Module, inputs: tuple, output: Any) -> None:
    if inputs[0].device.type == "cpu":
        _mode.__exit__(None, None, None)


def _is_plain(
    q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False, **more: Any
) -> bool:
    same = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.dim() == 4 and q.shape == k.shape == v.shape
    return same and attn_mask is None and not dropout_p and not is_causal and not more


def attention(q_BAND: Tensor, k_BAND: Tensor, v_BAND: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, (B,A,N,D). Probabilities are kept for the backward pass, rounded to their type."""
    return _Attention.apply(q_BAND, k_BAND, v_BAND)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BAND: Tensor, k_BAND: Tensor, v_BAND: Tensor) -> Tensor:
        q, k, v = (x.flatten(0, 1) for x in (q_BAND * q_BAND.shape[-1] ** -0.5, k_BAND, v_BAND))
        out, kept = torch.empty_like(q), []
        with torch.autocast("cpu", enabled=False):
            for heads, rows in _tiles(*q.shape[:2]):
                probs = torch.softmax(torch.bmm(q[heads, rows], k[heads].transpose(1, 2)), -1)
                out[heads, rows] = torch.bmm(probs, v[heads])
                if any(ctx.needs_input_grad):
                    kept.append(probs)
        ctx.save_for_backward(q, k, v, *kept)
        return out.view(q_BAND.shape)

    @staticmethod
    def backward(ctx: Any, grad_BAND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *kept = ctx.saved_tensors
        grad = grad_BAND.flatten(0, 1)
        grad_q = torch.empty_like(q)
        grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
        for (heads, rows), probs in zip(_tiles(*q.shape[:2]), kept, strict=True):
            grad_v[heads] += torch.bmm(probs.transpose(1, 2), grad[heads, rows])
            grad_probs = torch.bmm(grad[heads, rows], v[heads].transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_probs, probs, -1, probs.dtype)
            grad_q[heads, rows] = torch.bmm(grad_scores, k[heads])
            grad_k[heads] += torch.bmm(grad_scores.transpose(1, 2), q[heads, rows])
        shape = grad_BAND.shape
        return grad_q.mul_(shape[-1] ** -0.5).view(shape), grad_k.view(shape), grad_v.view(shape)


def _tiles(groups: int, tokens: int) -> list[tuple[slice, slice]]:
    """(heads, rows) whose scores are at most CACHED values: several heads, or a part of the rows of one."""
    heads = max(1, CACHED // tokens**2)
    rows = math.ceil(tokens / math.ceil(tokens**2 / CACHED))  # parts of equal size
    return [
        (slice(head, head + heads), slice(row, row + rows))
        for head in range(0, groups, heads)
        for row in range(0, tokens, rows)
    ]
