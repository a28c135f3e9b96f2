import tracemalloc
from unittest import mock

import cv2
import numpy as np
from helpers import quick, seeds
from hypothesis import given
from hypothesis import strategies as st

from stcl_cli import strips
from stcl_cli.strips import argmax_at_size


@quick
@given(seeds, st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 40, 200, 2**22]))
def test_the_winner_is_that_of_the_whole_resized(seed, height, width, strip):
    scores = np.random.default_rng(seed).random((4, 7, 5)).astype(np.float32)
    before = scores.copy()
    resized = np.stack([cv2.resize(score, (width, height), interpolation=cv2.INTER_LINEAR) for score in scores])
    with mock.patch.object(strips, "STRIP", strip):
        winner = argmax_at_size(scores, (height, width))
    assert (winner.dtype, winner.shape) == (np.uint8, (height, width))
    assert np.array_equal(scores, before)
    won = np.take_along_axis(resized, winner[None].astype(int), 0)[0]
    assert np.abs(won - resized.max(0)).max() < 1e-6  # where two are that close, either may win


def test_a_large_mask_needs_little_more_memory_than_itself():
    scores = np.random.default_rng(0).random((3, 64, 64)).astype(np.float32)
    tracemalloc.start()
    winner = argmax_at_size(scores, (8000, 8000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert set(np.unique(winner[:500])) == {0, 1, 2}
    assert peak < 3 * winner.nbytes
