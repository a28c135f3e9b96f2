import math

import numpy as np
import pytest
import torch
from helpers import gradients, quick, randn, seeds
from hypothesis import given
from hypothesis.extra.numpy import arrays

from stcl_cli.losses.class_contrast import class_contrast


def naive(teacher_BGE, student_BLE, positive_BL, temperature):
    losses = []
    for views, crops, positive in zip(teacher_BGE, student_BLE, positive_BL, strict=True):
        for view in views:
            scores = [math.exp(float(view @ crop) / temperature) for crop in crops]
            negatives = sum(score for score, is_positive in zip(scores, positive, strict=True) if not is_positive)
            losses += [-math.log(s / (s + negatives)) for s, flag in zip(scores, positive, strict=True) if flag]
    return sum(losses) / len(losses) if losses else 0.0


@quick
@given(seeds, arrays(bool, (3, 4)))
def test_is_the_naive_loop(seed, positive):
    teacher, student = randn(seed, 3, 2, 5), randn(seed ^ 1, 3, 4, 5)
    loss = class_contrast(teacher.detach(), student, torch.from_numpy(positive), 0.5)
    assert loss.item() == pytest.approx(
        naive(teacher.double().detach(), student.double().detach(), positive, 0.5), rel=1e-4, abs=1e-5
    )
    gradients(loss, student)


@pytest.mark.parametrize("positive", [True, False])
def test_only_one_kind_of_crops_gives_nothing(positive):
    student = randn(1, 2, 3, 4)
    loss = class_contrast(randn(0, 2, 2, 4).detach(), student, torch.full((2, 3), positive), 0.1)
    assert loss == 0
    assert gradients(loss, student)[0].eq(0).all()


def test_an_image_without_positives_changes_nothing():
    teacher, student = randn(0, 2, 2, 4), randn(1, 2, 3, 4)
    positive = torch.tensor([[True, False, False], [False, False, False]])
    assert torch.equal(
        class_contrast(teacher, student, positive, 0.5), class_contrast(teacher[:1], student[:1], positive[:1], 0.5)
    )


def test_pulls_positives_and_pushes_negatives():
    teacher, student = torch.ones(1, 2, 4), randn(0, 1, 2, 4)
    positive = torch.tensor([[True, False]])
    (grad,) = gradients(class_contrast(teacher, student, positive, 0.5), student)
    assert np.all(grad[0, 0].numpy() < 0)  # a step against the gradient brings it nearer to the teacher's view
    assert np.all(grad[0, 1].numpy() > 0)
