import itertools
import math

import numpy as np
import pytest
import torch
from helpers import gradients, quick, randn, seeds
from hypothesis import given

from stcl_cli.losses.dense_energy import dense_energy

H, W = 3, 4  # with side = 4 the grid is the photo's own, so that a loop over pixels is the whole truth


def random_photo(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 60, shape))


def naive(logits_BKHW, photos_B3HW, valid_BHW, sigma_rgb, sigma_xy):
    energy = total = 0.0
    probs_BHWK, photos_BHW3 = (
        logits_BKHW.double().softmax(1).movedim(1, -1),
        photos_B3HW.movedim(1, -1).double(),
    )
    for probs, photo, valid in zip(probs_BHWK, photos_BHW3, valid_BHW, strict=True):
        places = [place for place in np.ndindex(H, W) if valid[place]]
        for a, b in itertools.product(places, places):
            colour = float((photo[a] - photo[b]).square().sum()) / sigma_rgb**2
            place = ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / (sigma_xy * W) ** 2
            weight = math.exp(-0.5 * (colour + place))
            energy += weight * (1 - probs[a] @ probs[b])
            total += weight
    return energy / total


@quick
@given(seeds)
def test_is_the_naive_loop(seed):
    logits, photos = randn(seed, 2, 3, H, W), random_photo(seed, 2, 3, H, W)
    valid = torch.ones(2, H, W, dtype=torch.bool)
    valid[0, :, 3] = valid[1, 0] = False
    loss = dense_energy(logits, photos, valid, side=W, sigma_rgb=15, sigma_xy=0.5)
    expected = naive(logits, photos, valid, 15, 0.5)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
    (gradient,) = gradients(loss, logits)
    torch.testing.assert_close(gradient, gradients(expected, logits)[0], atol=1e-4, rtol=1e-2)
    assert gradient[~valid[:, None].expand_as(logits)].eq(0).all()


def test_a_cut_along_the_edge_costs_less():
    photo = torch.zeros(1, 3, 32, 32)
    photo[..., 16:] = 255

    def energy(column):
        logits = torch.full((1, 2, 32, 32), -9.0)
        logits[:, 0, :, :column] = logits[:, 1, :, column:] = 9.0
        return dense_energy(logits, photo, torch.ones(1, 32, 32))

    assert energy(16) < 0.01 < min(energy(8), energy(24))


def test_one_class_everywhere_costs_nothing_and_no_photo_gives_no_gradient():
    sure = torch.tensor([50.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 8, 8)
    assert dense_energy(sure, random_photo(0, 1, 3, 64, 48), torch.ones(1, 64, 48)).abs() < 1e-4
    logits = randn(0, 1, 2, 8, 8)
    (grad,) = gradients(dense_energy(logits, random_photo(0, 1, 3, 64, 48), torch.zeros(1, 64, 48)), logits)
    assert grad.eq(0).all()
