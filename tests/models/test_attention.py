import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import gradients, quick, randn, seeds
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint

from stcl_models import attention as module
from stcl_models.attention import CpuAttention, attention, take_over


def by_torch(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


@quick
@given(seeds, st.integers(1, 3), st.integers(1, 3), st.integers(1, 150), st.sampled_from([1, 300, 5000, 2**19]))
def test_as_torch_forward_and_backward_whatever_the_tiles(seed, images, heads, tokens, cached):
    q, k, v = (randn(seed + i, images, heads, tokens, 8) for i in range(3))
    weight = randn(seed + 3, images, heads, tokens, 8).detach()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CACHED", cached)
        got = attention(q, k, v)
        found = gradients((got * weight).sum(), q, k, v)
    want = by_torch(q, k, v)
    assert torch.allclose(got, want, atol=1e-5)
    for mine, theirs in zip(found, gradients((want * weight).sum(), q, k, v), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-4)


@pytest.mark.parametrize("tokens", [5, 197, 800])
def test_as_exact_in_bfloat16_as_the_plain_float32_path_allows(tokens):
    exact = [randn(i, 2, 3, tokens, 64) for i in range(3)]
    rounded = [x.detach().bfloat16().requires_grad_() for x in exact]
    want = by_torch(*exact)
    weight = randn(3, *want.shape).detach()
    with torch.autocast("cpu", torch.bfloat16):  # which would do the softmax in float32
        got = attention(*rounded)
    assert got.dtype == torch.bfloat16
    pairs = [(got, want)]
    pairs += zip(
        gradients((got.float() * weight).sum(), *rounded), gradients((want * weight).sum(), *exact), strict=True
    )
    for mine, theirs in pairs:
        assert (mine - theirs).norm() < 0.01 * theirs.norm()


def test_only_plain_bfloat16_attention_is_taken_over(monkeypatch):
    taken = []
    monkeypatch.setattr(module, "attention", lambda q, k, v: taken.append(q.dtype) or q)
    x = randn(0, 1, 2, 6, 8).detach()
    with CpuAttention():
        F.scaled_dot_product_attention(x, x, x)
        low = x.bfloat16()
        F.scaled_dot_product_attention(low, low, low, is_causal=True)
        F.scaled_dot_product_attention(low, low, low, attn_mask=torch.ones(6, 6, dtype=torch.bool))
        F.scaled_dot_product_attention(low, low, low, dropout_p=0.5)
        assert taken == []
        F.scaled_dot_product_attention(low, low, low, attn_mask=None, dropout_p=0.0, is_causal=False)
    F.scaled_dot_product_attention(low, low, low)
    assert taken == [torch.bfloat16]


class Layer(nn.Module):
    """Stands for timm's, which have this flag."""

    fused_attn = True

    def forward(self, x_BAND):
        if x_BAND.shape[-1] == 1:
            raise ValueError("too narrow")
        return F.scaled_dot_product_attention(x_BAND, x_BAND, x_BAND)


def test_layers_take_it_wherever_they_are_computed_and_nothing_else_does(monkeypatch):
    taken = []
    monkeypatch.setattr(module, "attention", lambda q, k, v: taken.append(q.shape) or attention(q, k, v))
    layers = nn.Sequential(Layer(), nn.Identity())
    take_over(layers)
    x = randn(0, 1, 2, 6, 8).detach().bfloat16().requires_grad_()
    out = checkpoint(copy.deepcopy(layers), x, use_reentrant=False)
    assert len(taken) == 1
    out.sum().backward()
    assert len(taken) == 2  # computed again for the gradient
    with pytest.raises(ValueError, match="too narrow"):
        layers(x[..., :1])
    F.scaled_dot_product_attention(x, x, x)
    assert len(taken) == 2
    layers(x.to("meta"))
    assert len(taken) == 2
