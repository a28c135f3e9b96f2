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


def dense_walk(cams: Tensor, index: Tensor, similarity: Tensor, steps: int, sharpness: float) -> Tensor:
    """T^steps as a matrix, float64."""
    N, J = cams[0].numel(), index.shape[2]
    affinity = torch.zeros(N, N, dtype=torch.float64)
    affinity.scatter_add_(1, index.reshape(N, J).long(), similarity.reshape(N, J).double() ** sharpness)
    transition = affinity / affinity.sum(1, keepdim=True)
    return (torch.linalg.matrix_power(transition, steps) @ cams.flatten(1).t().double()).t().reshape(cams.shape)


@pytest.mark.parametrize("steps", [0, 1, 7, 64])
@pytest.mark.parametrize("radius", [0, 1, 2, 9])
def test_is_the_dense_walk(radius: int, steps: int):
    cams, tokens = scene(0)
    affinity = local_affinity(tokens, (6, 9), radius)
    walked = random_walk(cams, *affinity, steps=steps, sharpness=3.0)
    torch.testing.assert_close(walked.double(), dense_walk(cams, *affinity, steps, 3.0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("radius", [0, 1, 3])
def test_affinity_is_the_cosine_to_each_patch_around(radius: int):
    """Patch by patch, pair by pair."""
    _, tokens = scene(1)
    index, similarity = local_affinity(tokens, (6, 9), radius)
    assert index.shape == similarity.shape == (6, 9, (2 * radius + 1) ** 2)
    assert (index.dtype, similarity.dtype) == (torch.int32, torch.float32)
    for y, x in itertools.product(range(6), range(9)):
        pairs = dict(zip(index[y, x].tolist(), similarity[y, x].tolist(), strict=True))
        pairs[y * 9 + x] = similarity[y, x, len(similarity[y, x]) // 2].item()  # beyond the edge it stands in with 0
        near = [(v, u) for v, u in itertools.product(range(6), range(9)) if max(abs(v - y), abs(u - x)) <= radius]
        assert pairs.keys() == {v * 9 + u for v, u in near}
        for v, u in near:
            cosine = F.cosine_similarity(tokens[y * 9 + x], tokens[v * 9 + u], dim=0).clamp(min=0)
            assert pairs[v * 9 + u] == pytest.approx(cosine.item(), abs=1e-6)


def test_an_object_is_completed_and_no_other():
    """Patches of two kinds; one patch of the left kind is activated."""
    kinds = torch.zeros(4, 8, 2)
    kinds[:, :4, 0] = kinds[:, 4:, 1] = 1
    cams = torch.zeros(1, 4, 8)
    cams[0, 1, 1] = 1
    walked = random_walk(cams, *local_affinity(kinds.reshape(32, 2), (4, 8)), steps=64)
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
    walked = random_walk(probs, *affinity, steps)
    torch.testing.assert_close(walked.sum(0), torch.ones(h, w))
    assert walked.min() >= probs.min() - 1e-5
    assert walked.max() <= probs.max() + 1e-5
    order = torch.randperm(K)
    torch.testing.assert_close(random_walk(probs[order], *affinity, steps), walked[order])
    constant = torch.full((K, h, w), 0.3)
    torch.testing.assert_close(random_walk(constant, *affinity, steps), constant)
    flipped_tokens = tokens.view(h, w, -1).flip(1).reshape(h * w, -1)
    flipped = random_walk(probs.flip(2), *local_affinity(flipped_tokens, (h, w)), steps)
    torch.testing.assert_close(flipped.flip(2), walked, atol=1e-4, rtol=0)


def test_another_grid_is_refused():
    cams, tokens = scene(0)
    with pytest.raises(ValueError, match="6 x 9 patches"):
        random_walk(cams[:, :5], *local_affinity(tokens, (6, 9)))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_gives_what_the_cpu_gives():
    cams, tokens = scene(1)
    affinity = local_affinity(tokens, (6, 9))
    on_gpu = random_walk(cams.cuda(), *(x.cuda() for x in affinity)).cpu()
    torch.testing.assert_close(on_gpu, random_walk(cams, *affinity), atol=1e-5, rtol=0)
