import cv2
import numpy as np
import pytest
from helpers import quick, seeds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from stcl_cli.export.polygons import polygons


def parts(region_HW: np.ndarray) -> list[np.ndarray]:
    """Each polygon filled by OpenCV, as Ultralytics and supervision fill it."""
    filled = []
    for polygon in polygons(region_HW):
        part_HW = np.zeros(region_HW.shape, np.uint8)
        cv2.fillPoly(part_HW, [polygon], 1)
        filled.append(part_HW)
    return filled


def assert_round_trip(region_HW: np.ndarray) -> None:
    filled = parts(region_HW)
    assert np.array_equal(sum(filled, np.zeros(region_HW.shape, int)), region_HW.astype(int))  # and no overlap
    assert len(filled) == cv2.connectedComponents(region_HW.astype(np.uint8), connectivity=8)[0] - 1
    assert all(polygon.shape[1] == 2 and len(polygon) >= 3 for polygon in polygons(region_HW))


@quick
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_any_region_comes_back_to_the_pixel(region_HW):
    assert_round_trip(region_HW)


@quick
@given(seeds, st.floats(0.1, 0.95), st.floats(0.4, 3))
def test_so_do_regions_with_many_holes(seed, share, blur):
    field = cv2.GaussianBlur(np.random.default_rng(seed).random((40, 30)).astype(np.float32), (0, 0), blur)
    assert_round_trip(field > np.quantile(field, 1 - share))


def test_corners_only():
    region_HW = np.zeros((9, 9), bool)
    region_HW[2:8, 1:7] = True
    (polygon,) = polygons(region_HW)
    assert sorted(map(tuple, polygon.tolist())) == [(1, 2), (1, 7), (6, 2), (6, 7)]
    region_HW[4:6, 3:5] = False  # a hole: an outer and an inner ring with a seam there and back
    (polygon,) = polygons(region_HW)
    assert len(polygon) <= 4 + 8 + 3


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 1)])
def test_the_smallest_regions_have_three_points(shape):
    assert_round_trip(np.ones(shape, bool))


def test_an_empty_region_has_none():
    assert list(polygons(np.zeros((4, 5), bool))) == []
