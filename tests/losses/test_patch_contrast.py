import math

import numpy as np
import pytest
import torch
from helpers import gradients, quick, randn, seeds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stcl_cli.losses.patch_contrast import patch_contrast

LABELS = arrays(np.int64, (2, 5), elements=st.sampled_from([0, 1, 2, 255]))


def naive(tokens_BND, labels_BN):
    alike, unlike = [], []
    for tokens, labels in zip(tokens_BND.tolist(), labels_BN.tolist(), strict=True):
        for i, a in enumerate(tokens):
            for j, b in enumerate(tokens):
                if i == j or 255 in (labels[i], labels[j]):
                    continue
                cosine = abs(sum(x * y for x, y in zip(a, b, strict=True))) / (math.hypot(*a) * math.hypot(*b))
                (alike if labels[i] == labels[j] else unlike).append(cosine)
    return 0.5 * (1 - sum(alike) / (len(alike) + 1)) + 0.5 * sum(unlike) / (len(unlike) + 1)


@quick
@given(seeds, LABELS)
def test_is_the_naive_loop(seed, labels):
    tokens = randn(seed, 2, 5, 4)
    loss = patch_contrast(tokens, torch.from_numpy(labels))
    assert loss.item() == pytest.approx(naive(tokens.double(), labels), abs=1e-6)
    assert gradients(loss, tokens)[0][torch.from_numpy(labels) == 255].eq(0).all()


def test_apart_when_different_together_when_alike():
    apart = torch.eye(6)[None]
    together = torch.ones(1, 6, 6)
    different, alike = torch.arange(6)[None], torch.zeros(1, 6, dtype=torch.int64)
    assert patch_contrast(apart, different) < patch_contrast(together, different)
    assert patch_contrast(together, alike) < patch_contrast(apart, alike)


@pytest.mark.parametrize("labels", [[255, 255, 255], [1, 1, 1], [0, 1, 2], [255, 0, 255]])
def test_no_pairs_of_a_kind(labels):
    tokens = randn(0, 1, 3, 4)
    gradients(patch_contrast(tokens, torch.tensor([labels])), tokens)


def test_zero_tokens_and_bf16():
    tokens = torch.zeros(1, 3, 4, requires_grad=True)
    gradients(patch_contrast(tokens, torch.tensor([[0, 0, 1]])), tokens)
    assert patch_contrast(tokens.bfloat16(), torch.tensor([[0, 0, 1]])).dtype == torch.float32
