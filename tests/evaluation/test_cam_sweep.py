import math

import numpy as np
import pytest
from helpers import quick, seeds
from hypothesis import given

from stcl_cli.evaluation.cam_sweep import CamSweep
from stcl_cli.evaluation.metrics import confusion_matrix, mean_iou


def random_photo(seed):
    """Truth of 3 classes with 255, and maps of two of them; no value lies on a step, where rounding would decide."""
    rng = np.random.default_rng(seed)
    return rng.choice([0, 1, 2, 3, 255], (4, 5)).astype(np.uint8), (rng.integers(0, 100, (2, 4, 5)) + 0.5) / 100


def labelled_by_hand(maps, labels, background):
    return np.where(maps.max(0) >= background, np.array(labels)[maps.argmax(0)] + 1, 0)


@quick
@given(seeds)
def test_every_score_is_the_confusion_of_its_label_map(seed):
    sweep, photos = CamSweep(3), [random_photo(seed), random_photo(seed + 1)]
    for truth, maps in photos:
        sweep.add(truth, maps, (2, 0))
    for step in (0, 1, 37, 99):
        expected = sum(confusion_matrix(t, labelled_by_hand(m, (2, 0), step / 100), 4) for t, m in photos)
        assert np.array_equal(sweep.confusion(step), expected)
    one_by_one = [mean_iou(sweep.confusion(step)) for step in range(100)]
    assert np.allclose(sweep.curve(), one_by_one)
    miou, background = sweep.best()
    assert miou == pytest.approx(max(one_by_one[1:]))
    assert miou == pytest.approx(one_by_one[round(background * 100)])


def test_at_one_score():
    sweep = CamSweep(1)
    sweep.add(np.array([[0, 1, 1, 0]], np.uint8), np.array([[[0.1, 0.44, 0.45, 0.6]]], np.float32), [0])
    assert sweep.at(0.45) == pytest.approx(1 / 3)
    assert sweep.at(0.44) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_values_of_0_and_1_and_a_photo_without_labels():
    sweep = CamSweep(1)
    sweep.add(np.array([[0, 1]], np.uint8), np.array([[[0.0, 1.0]]], np.float32), [0])
    assert sweep.best()[0] == 1
    sweep.add(np.array([[0, 1]], np.uint8), np.zeros((0, 1, 2), np.float32), [])
    assert sweep.confusion(50).tolist() == [[2, 0, 0], [1, 1, 0]]


def test_nothing_to_measure_on():
    sweep = CamSweep(1)
    sweep.add(np.full((2, 2), 255, np.uint8), np.zeros((1, 2, 2), np.float32), [0])
    assert math.isnan(sweep.best()[0])
    assert np.isnan(sweep.curve()).all()
    assert sweep.confusion(1).sum() == pytest.approx(0)
