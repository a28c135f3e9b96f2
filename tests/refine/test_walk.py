"""The walk against dense matrix powers in float64, and by its properties."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stcl_cli.refine.walk import local_affinity, random_walk


def scene(seed: int, K: int = 3, h: int = 6, w: int = 9) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(K, h, w, generator=draw), torch.randn(h * w, 8, generator=draw)


def dense_walk(cams: Tensor, tokens: Tensor, radius: int, steps: int, sharpness: float) -> Tensor:
    """T^steps as a matrix of all pairs of patches, float64."""
    _, h, w = cams.shape
    place = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), 2).view(-1, 1, 2)
    near = (place - place.transpose(0, 1)).abs().amax(2) <= radius
    cosine = F.cosine_similarity(tokens.double()[:, None], tokens.double()[None], dim=2)
    affinity = torch.where(near, cosine.clamp(min=0) ** sharpness, 0)
    transition = affinity / affinity.sum(1, keepdim=True)
    return (torch.linalg.matrix_power(transition, steps) @ cams.flatten(1).t().double()).t().reshape(cams.shape)


@pytest.mark.parametrize("steps", [0, 1, 7, 64])
@pytest.mark.parametrize("radius", [0, 1, 2, 9])
def test_is_the_dense_walk(radius: int, steps: int):
    cams, tokens = scene(0)
    walked = random_walk(cams, local_affinity(tokens, (6, 9), radius), steps=steps, sharpness=3.0)
    torch.testing.assert_close(walked.double(), dense_walk(cams, tokens, radius, steps, 3.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_affinity_is_the_cosine_to_each_patch_around(radius: int):
    """Patch by patch, pair by pair."""
    _, tokens = scene(1)
    similarity = local_affinity(tokens, (6, 9), radius)
    assert similarity.shape == (6, 9, (2 * radius + 1) ** 2)
    assert similarity.dtype == torch.float32
    steps = range(-radius, radius + 1)
    for y, x in itertools.product(range(6), range(9)):
        for (dy, dx), found in zip(itertools.product(steps, steps), similarity[y, x].tolist(), strict=True):
            v, u = y + dy, x + dx
            expected = 0.0
            if 0 <= v < 6 and 0 <= u < 9:
                expected = F.cosine_similarity(tokens[y * 9 + x], tokens[v * 9 + u], dim=0).clamp(min=0).item()
            assert found == pytest.approx(expected, abs=1e-6)


def test_an_object_is_completed_and_no_other():
    """Patches of two kinds; one patch of the left kind is activated."""
    kinds = torch.zeros(4, 8, 2)
    kinds[:, :4, 0] = kinds[:, 4:, 1] = 1
    cams = torch.zeros(1, 4, 8)
    cams[0, 1, 1] = 1
    walked = random_walk(cams, local_affinity(kinds.reshape(32, 2), (4, 8)), steps=64)
    torch.testing.assert_close(walked[0, :, :4], torch.full((4, 4), 1 / 16), atol=0.03, rtol=0)
    assert walked[0, :, 4:].max() == 0


@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6), K=st.integers(1, 4), h=st.integers(1, 6), w=st.integers(1, 6), steps=st.integers(0, 9)
)
def test_properties(seed: int, K: int, h: int, w: int, steps: int):
    cams, tokens = scene(seed, K, h, w)
    probs = cams.softmax(0)
    affinity = local_affinity(tokens, (h, w))
    walked = random_walk(probs, affinity, steps)
    torch.testing.assert_close(walked.sum(0), torch.ones(h, w))
    assert walked.min() >= probs.min() - 1e-5
    assert walked.max() <= probs.max() + 1e-5
    order = torch.randperm(K)
    torch.testing.assert_close(random_walk(probs[order], affinity, steps), walked[order])
    constant = torch.full((K, h, w), 0.3)
    torch.testing.assert_close(random_walk(constant, affinity, steps), constant)
    flipped_tokens = tokens.view(h, w, -1).flip(1).reshape(h * w, -1)
    flipped = random_walk(probs.flip(2), local_affinity(flipped_tokens, (h, w)), steps)
    torch.testing.assert_close(flipped.flip(2), walked, atol=1e-4, rtol=0)


def test_another_grid_is_refused():
    cams, tokens = scene(0)
    with pytest.raises(ValueError, match="6 x 9 patches"):
        random_walk(cams[:, :5], local_affinity(tokens, (6, 9)))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_gives_what_the_cpu_gives():
    cams, tokens = scene(1)
    affinity = local_affinity(tokens, (6, 9))
    on_gpu = random_walk(cams.cuda(), affinity.cuda()).cpu()
    torch.testing.assert_close(on_gpu, random_walk(cams, affinity), atol=1e-5, rtol=0)
