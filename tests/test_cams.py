import numpy as np
import pytest
import torch
from helpers import quick, seeds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stcl_cli.cams import (
    best_labels,
    between_is_ignored,
    cut_crops,
    gather_slots,
    label_map,
    label_slots,
    local_crop_corners,
    normalise_cams,
    with_background,
)

LABELS = arrays(np.float32, (3, 4), elements=st.sampled_from([0, 1]))


def rand(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@quick
@given(seeds, st.floats(0.1, 100), st.floats(-10, 10))
def test_normalised_maps_fill_0_to_1_whatever_their_scale(seed, scale, shift):
    cams = rand(seed, 2, 3, 4, 5)
    normal = normalise_cams(cams)
    assert normal.amin((-2, -1)).eq(0).all()
    assert torch.allclose(normal.amax((-2, -1)), torch.ones(2, 3))
    assert torch.allclose(normalise_cams(scale * cams + shift), normal, atol=1e-3)


def test_a_map_without_activation_stays_empty():
    assert normalise_cams(torch.zeros(2, 3, 4)).eq(0).all()


@given(LABELS)
def test_slots_hold_each_images_own_labels(labels):
    slots = label_slots(torch.from_numpy(labels))
    cams = rand(0, 3, 4, 2, 2)
    maps = gather_slots(cams, slots)
    assert slots.shape[1] == max(labels.sum(1).max(), 1)
    for image in range(3):
        own = np.flatnonzero(labels[image]).tolist()
        assert slots[image].tolist() == own + [-1] * (slots.shape[1] - len(own))
        assert torch.equal(maps[image, : len(own)], cams[image, own])
        assert maps[image, len(own) :].eq(0).all()
    more = label_slots(torch.from_numpy(labels), 4)
    assert torch.equal(more[:, : slots.shape[1]], slots)
    assert more[:, slots.shape[1] :].eq(-1).all()


@given(arrays(np.float32, (2, 2, 3, 3), elements=st.sampled_from([0, 0.25, 0.3, 0.7, 0.75, 1])))
def test_label_map_is_the_naive_loop(cams):
    slots = np.array([[2, 5], [1, -1]])
    cams[slots == -1] = 0
    labels = label_map(torch.from_numpy(cams), torch.from_numpy(slots), low=0.25, high=0.7)
    for b, y, x in np.ndindex(2, 3, 3):
        value, slot = max((cams[b, k, y, x], -k) for k in range(2))
        expected = 0 if value <= np.float32(0.25) else slots[b, -slot] + 1 if value >= np.float32(0.7) else 255
        assert labels[b, y, x] == expected


def test_background_wins_exactly_where_no_cam_exceeds_it():
    cams = rand(0, 3, 6, 5)
    scores = with_background(cams, (0.3, 0.8))
    assert scores.shape == (2, 4, 6, 5)
    assert torch.allclose(scores.sum(1), torch.ones(2, 6, 5))
    for score, background in zip(scores, (0.3, 0.8), strict=True):
        value, winner = cams.max(0)
        assert torch.equal(score.argmax(0), torch.where(value > background, winner + 1, 0))
    above, below = with_background(torch.tensor([[[0.9]], [[0.1]]]), (0.5,))[0, 1:].flatten().log()
    half = with_background(torch.full((1, 1, 1), 0.5), (0.5,))[0, 1]
    assert half == 0.5  # as far above as below counts as much
    torch.testing.assert_close(above - below, torch.tensor(6 * 0.8))
    assert with_background(torch.zeros(0, 2, 2), (0.0,)).eq(1).all()  # no label at all, and a score of 0


def test_only_foreground_at_both_scores_is_sure():
    low, high = np.array([[0, 1, 2, 1]], np.uint8), np.array([[0, 1, 0, 2]], np.uint8)
    merged = between_is_ignored(low, high)
    assert merged.tolist() == [[0, 1, 255, 2]]
    assert merged.dtype == np.uint8


@quick
@given(seeds, arrays(np.int64, (2, 6, 5), elements=st.sampled_from([0, 1, 255])), st.integers(1, 5))
def test_local_crops_lie_inside_and_know_what_they_show(seed, labels, window):
    valid = torch.ones(2, 6, 5, dtype=torch.bool)
    valid[0, :, 3:] = False
    corners, positive = local_crop_corners(torch.from_numpy(labels), valid, window, rand(seed, 2, 4))
    for image, crop in np.ndindex(2, 4):
        top, left = corners[image, crop].tolist()
        assert 0 <= top <= 6 - window
        assert 0 <= left <= 5 - window
        cut = np.s_[image, top : top + window, left : left + window]
        share = ((labels[cut] != 0) & valid[cut].numpy()).mean()
        if share != pytest.approx(0.2):  # a matter of rounding
            assert positive[image, crop] == (share > 0.2)


def test_half_the_crops_are_centred_on_uncertain_tokens():
    labels, valid = torch.zeros(1, 8, 8, dtype=torch.int64), torch.ones(1, 8, 8, dtype=torch.bool)
    labels[0, 2, 3], labels[0, 4:] = 255, 1
    valid[0, :2] = False
    corners, _ = local_crop_corners(labels, valid, 1, rand(0, 1, 4000))
    row, column = corners[0].unbind(-1)
    assert ((row == 2) & (column == 3)).float().mean() == pytest.approx(0.5, abs=0.05)
    assert ((row >= 2) & (row < 4)).all()  # neither padding nor what is foreground for sure


def test_an_image_that_is_all_foreground_still_gives_crops():
    ones = torch.ones(1, 4, 4, dtype=torch.int64)
    _, positive = local_crop_corners(ones, ones.bool(), 2, rand(0, 1, 3))
    assert positive.all()


def test_crops_are_slices():
    images = rand(0, 2, 3, 32, 24)
    corners = torch.tensor([[[0, 0], [2, 1]], [[1, 0], [0, 1]]])
    crops = cut_crops(images, corners, patch=8, window=2)
    for b, k in np.ndindex(2, 2):
        top, left = (8 * corners[b, k]).tolist()
        assert torch.equal(crops[b, k], images[b, :, top : top + 16, left : left + 16])


def test_the_best_label_is_that_of_argmax():
    scores = torch.rand(5, 30, 40).round(decimals=1)  # with many equal ones
    assert torch.equal(best_labels(scores), scores.argmax(0).byte())
