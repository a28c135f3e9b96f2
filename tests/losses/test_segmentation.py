import math

import numpy as np
import pytest
import torch
from helpers import gradients, quick, randn, seeds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stcl_cli.losses.segmentation import balanced_cross_entropy, mean_cross_entropy

TARGET = arrays(np.int64, (2, 3, 2), elements=st.sampled_from([0, 1, 2, 255]))


def naive(logits_BKHW, target_BHW):
    halves = {False: [], True: []}
    for index in np.ndindex(target_BHW.shape):
        true = int(target_BHW[index])
        if true != 255:
            scores = logits_BKHW[index[0], :, index[1], index[2]].tolist()
            halves[true > 0].append(math.log(sum(map(math.exp, scores))) - scores[true])
    return sum(sum(half) / len(half) for half in halves.values() if half) / 2


@quick
@given(seeds, TARGET)
def test_is_the_naive_loop(seed, target):
    logits = randn(seed, 2, 3, 3, 2)
    loss = balanced_cross_entropy(logits, torch.from_numpy(target))
    assert loss.item() == pytest.approx(naive(logits.double(), target), abs=1e-5)
    ignored = torch.from_numpy(target == 255)[:, None].expand_as(logits)
    assert gradients(loss, logits)[0][ignored].eq(0).all()


def test_without_a_sure_pixel():
    logits = randn(0, 1, 3, 2, 2)
    loss = balanced_cross_entropy(logits, torch.full((1, 2, 2), 255))
    assert loss == 0
    assert gradients(loss, logits)[0].eq(0).all()


def test_much_background_does_not_drown_an_object():
    logits = randn(0, 1, 2, 1, 2)
    more_background = torch.cat([logits, *[logits[..., :1]] * 50], -1)
    loss = balanced_cross_entropy(logits, torch.tensor([[[0, 1]]]))
    assert torch.isclose(loss, balanced_cross_entropy(more_background, torch.tensor([[[0, 1] + [0] * 50]])))


@quick
@given(seeds, TARGET)
def test_the_mean_is_over_the_pixels_that_are_not_ignored(seed, target):
    logits = randn(seed, 2, 3, 3, 2)
    expected = [
        torch.logsumexp(logits[b, :, y, x].double(), 0) - logits[b, target[b, y, x], y, x].double()
        for b, y, x in np.argwhere(target != 255)
    ]
    loss = mean_cross_entropy(logits, torch.from_numpy(target))
    mean = sum(expected, 0 * logits.sum()) / max(1, len(expected))
    torch.testing.assert_close(loss.double(), mean.double(), atol=1e-5, rtol=0)
    for own, other in zip(gradients(loss, logits), gradients(mean, logits), strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=0)
