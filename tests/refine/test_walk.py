"""The walk against dense matrix powers in float64, and by its properties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stcl_cli.refine.walk import compact_affinity, random_walk, token_similarity


def scene(seed: int, K: int = 3, h: int = 6, w: int = 9) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(K, h, w, generator=draw), torch.randn(h * w, 8, generator=draw)


def dense_walk(cams: Tensor, index: Tensor, similarity: Tensor, steps: int, sharpness: float) -> Tensor:
    """T^steps as a matrix, float64."""
    N, J = cams[0].numel(), index.shape[2]
    affinity = torch.zeros(N, N, dtype=torch.float64)
    affinity.scatter_(1, index.reshape(N, J).long(), similarity.reshape(N, J).double() ** sharpness)
    transition = affinity / affinity.sum(1, keepdim=True)
    return (torch.linalg.matrix_power(transition, steps) @ cams.flatten(1).t().double()).t().reshape(cams.shape)


@pytest.mark.parametrize("steps", [0, 1, 7, 64])
@pytest.mark.parametrize("neighbours", [1, 5, 1000])
def test_is_the_dense_walk(neighbours: int, steps: int):
    cams, tokens = scene(0)
    affinity = compact_affinity(token_similarity(tokens), (6, 9), neighbours)
    walked = random_walk(cams, *affinity, steps=steps, sharpness=3.0)
    torch.testing.assert_close(walked.double(), dense_walk(cams, *affinity, steps, 3.0), atol=1e-5, rtol=0)


def test_similarity_is_the_cosine_without_its_negatives():
    tokens = torch.tensor([[1.0, 0.0], [3.0, 3.0], [-2.0, 0.0]])
    half = 0.5**0.5
    expected = torch.tensor([[1.0, half, 0.0], [half, 1.0, 0.0], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(token_similarity(tokens), expected)


def test_compact_keeps_the_most_similar():
    similarity = torch.tensor([[1.0, 0.2, 0.9, 0.1], [0.2, 1.0, 0.3, 0.8], [0.9, 0.3, 1.0, 0.4], [0.1, 0.8, 0.4, 1.0]])
    index, kept = compact_affinity(similarity, (2, 2), 2)
    assert index.tolist() == [[[0, 2], [1, 3]], [[2, 0], [3, 1]]]
    assert (index.dtype, kept.dtype) == (torch.int32, torch.float16)
    torch.testing.assert_close(kept[0, 0], torch.tensor([1.0, 0.9]).half())


def test_attention_of_tiny_values_walks_the_same():
    cams, tokens = scene(2)
    similarity = token_similarity(tokens)
    expected = random_walk(cams, *compact_affinity(similarity, (6, 9), 6))
    torch.testing.assert_close(random_walk(cams, *compact_affinity(similarity * 1e-6, (6, 9), 6)), expected)


def test_an_object_is_completed_and_no_other():
    """Patches of two kinds; one patch of the left kind is activated."""
    kinds = torch.zeros(4, 8, 2)
    kinds[:, :4, 0] = kinds[:, 4:, 1] = 1
    cams = torch.zeros(1, 4, 8)
    cams[0, 1, 1] = 1
    affinity = compact_affinity(token_similarity(kinds.reshape(32, 2)), (4, 8), 16)
    walked = random_walk(cams, *affinity)
    torch.testing.assert_close(walked[0, :, :4], torch.full((4, 4), 1 / 16))
    assert walked[0, :, 4:].max() == 0


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6), K=st.integers(1, 4), h=st.integers(1, 6), w=st.integers(1, 6), steps=st.integers(0, 9)
)
def test_properties(seed: int, K: int, h: int, w: int, steps: int):
    cams, tokens = scene(seed, K, h, w)
    probs = cams.softmax(0)
    affinity = compact_affinity(token_similarity(tokens), (h, w), 4)
    walked = random_walk(probs, *affinity, steps)
    torch.testing.assert_close(walked.sum(0), torch.ones(h, w))
    assert walked.min() >= probs.min() - 1e-5
    assert walked.max() <= probs.max() + 1e-5
    order = torch.randperm(K)
    torch.testing.assert_close(random_walk(probs[order], *affinity, steps), walked[order])
    constant = torch.full((K, h, w), 0.3)
    torch.testing.assert_close(random_walk(constant, *affinity, steps), constant)
    flipped_tokens = tokens.view(h, w, -1).flip(1).reshape(h * w, -1)
    flipped = random_walk(probs.flip(2), *compact_affinity(token_similarity(flipped_tokens), (h, w), 4), steps)
    torch.testing.assert_close(flipped.flip(2), walked, atol=1e-4, rtol=0)


def test_another_grid_is_refused():
    cams, tokens = scene(0)
    with pytest.raises(ValueError, match="6 x 9 patches"):
        random_walk(cams[:, :5], *compact_affinity(token_similarity(tokens), (6, 9)))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_gives_what_the_cpu_gives():
    cams, tokens = scene(1)
    affinity = compact_affinity(token_similarity(tokens), (6, 9), 5)
    on_gpu = random_walk(cams.cuda(), *(x.cuda() for x in affinity)).cpu()
    torch.testing.assert_close(on_gpu, random_walk(cams, *affinity), atol=1e-5, rtol=0)
