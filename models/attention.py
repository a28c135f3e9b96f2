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

TILE = 2**21  # scores (4 MB in bfloat16) worked on at once: they stay in the CPU's cache between the products
SAFE = 2.0**100  # sums of exponentials up to this, and down to its inverse, are far from the ends of the type's range


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


def take_over(vit: nn.Module) -> None:
    """Have a timm ViT's attention layers enter CpuAttention on the CPU, also where a backward pass repeats them."""
    for module in vit.modules():
        if hasattr(module, "fused_attn"):
            module.register_forward_pre_hook(_enter)
            module.register_forward_hook(_leave, always_call=True)


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
        shape = q_BAND.shape
        q = torch.mul(q_BAND, shape[-1] ** -0.5 / math.log(2), out=q_BAND.new_empty(shape)).flatten(0, 1)
        k, v = k_BAND.flatten(0, 1), v_BAND.flatten(0, 1)
        out, kept = torch.empty_like(q), []
        with torch.autocast("cpu", enabled=False):
            for heads, rows in _tiles(*q.shape[:2]):
                weights, sums = _exponentials(q[heads, rows], k[heads])
                if any(ctx.needs_input_grad):
                    kept.append(weights.div_(sums))
                    torch.bmm(weights, v[heads], out=out[heads, rows])
                else:
                    torch.div(torch.bmm(weights, v[heads]), sums, out=out[heads, rows])
        ctx.save_for_backward(q, k, v, *kept)
        return out.view(shape)

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
        return grad_q.mul_(shape[-1] ** -0.5).view(shape), grad_k.mul_(math.log(2)).view(shape), grad_v.view(shape)


def _exponentials(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """2^(q k^T), and its sums over the keys: softmax without the division, which the product with v makes shorter.

    Nor is the largest score of a row subtracted, as scores are small in every network that has learnt; where sums say
    that they were not, softmax does it.
    """
    scores = torch.bmm(q, k.transpose(1, 2))
    weights = torch.exp2(scores, out=scores)
    sums = weights.sum(-1, keepdim=True)
    low, high = sums.aminmax()
    if not 1 / SAFE < low.item() <= high.item() < SAFE:
        weights = torch.softmax(torch.bmm(q, k.transpose(1, 2)) * math.log(2), -1)
        sums = torch.ones_like(sums)
    return weights, sums


def _tiles(groups: int, tokens: int) -> list[tuple[slice, slice]]:
    """(heads, rows) whose scores are at most TILE values: several heads, or a part of the rows of one."""
    heads = max(1, TILE // tokens**2)
    rows = math.ceil(tokens / math.ceil(tokens**2 / TILE))  # parts of equal size
    return [
        (slice(head, head + heads), slice(row, row + rows))
        for head in range(0, groups, heads)
        for row in range(0, tokens, rows)
    ]
