import cv2
import numpy as np
import pytest
from helpers import quick, seeds
from hypothesis import given
from hypothesis import strategies as st

from stcl_cli.data.transforms import random_view

PADDING = (1, 2, 3)


def coded(seed, height, width):
    """A mask of large blocks and a photo that shows it: class k has grey value 60 + 60 k."""
    blocks = np.random.default_rng(seed).integers(0, 4, (3, 3)).astype(np.uint8)
    mask = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.repeat((60 + 60 * mask)[:, :, None], 3, 2), mask


def view_of(photo, mask, seed, crop_size, rescale=(0.5, 2.0)):
    return random_view(photo, mask, np.random.default_rng(seed), crop_size, rescale, PADDING)


@quick
@given(seeds, st.integers(20, 90), st.integers(20, 90), st.sampled_from([32, 64]))
def test_photo_mask_and_box_are_cut_the_same(seed, height, width, crop):
    photo, mask, box = view_of(*coded(seed, height, width), seed, crop)
    top, bottom, left, right = box
    inside = np.zeros((crop, crop), bool)
    inside[top:bottom, left:right] = True
    assert np.array_equal(mask != 255, inside)
    assert (photo[~inside] == PADDING).all()
    assert photo[inside].min() >= 60  # no padding inside
    # Interpolation mixes colours along the borders of classes: there, and only there, they may disagree.
    borders = cv2.dilate(mask, np.ones((5, 5))) != cv2.erode(mask, np.ones((5, 5)))
    seen = np.round((photo[:, :, 0].astype(float) - 60) / 60)
    assert (seen == mask)[inside & ~borders].all()


def test_a_view_without_rescaling_is_the_photo_or_its_mirror_image():
    photo, mask = coded(0, 32, 32)
    photo[:, :, 1] = np.arange(32)
    mirrored = []
    for seed in range(20):
        view = view_of(photo, mask, seed, 32, (1.0, 1.0))
        mirrored.append(bool(view.photo_HW3[0, 0, 1]))
        step = -1 if mirrored[-1] else 1
        assert np.array_equal(view.photo_HW3, photo[:, ::step])
        assert np.array_equal(view.mask_HW, mask[:, ::step])
    assert set(mirrored) == {False, True}


@pytest.mark.parametrize("scale", [1 / 4, 1 / 3, 3.0])
def test_masks_are_not_shifted_against_photos(scale):
    columns = np.tile(np.arange(96, dtype=np.uint8), (96, 1))
    view = view_of(np.repeat(columns[:, :, None], 3, 2), columns, 1, round(96 * scale), (scale, scale))
    shift = view.photo_HW3[:, :, 0].astype(float) - view.mask_HW
    assert abs(shift.mean()) <= 0.51  # pixels of the photo; an even number has no middle one


def test_the_same_draw_with_and_without_a_mask():
    photo, mask = coded(3, 70, 50)
    with_mask, without = view_of(photo, mask, 5, 48), view_of(photo, None, 5, 48)
    assert np.array_equal(with_mask.photo_HW3, without.photo_HW3)
    assert with_mask.box == without.box
    assert without.mask_HW is None


@quick
@given(seeds)
def test_scales_stay_in_their_range(seed):
    top, bottom, left, right = view_of(*coded(0, 20, 30), seed, 64, (0.5, 2.0)).box
    assert 10 <= bottom - top <= 40
    assert (right - left) / (bottom - top) == pytest.approx(1.5, abs=0.11)


def test_one_pixel_photos():
    photo, mask = np.full((1, 40, 3), 9, np.uint8), np.zeros((1, 40), np.uint8)
    for seed in range(20):
        view = view_of(photo, mask, seed, 16, (0.1, 3.0))
        assert (view.photo_HW3[view.mask_HW == 0] == 9).all()
