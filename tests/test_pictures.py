import numpy as np

from stcl_cli.formats.masks import voc_palette
from stcl_cli.pictures import GAP, grid, heat, overlay, shown_palette

GREY = np.full((8, 12, 3), 100, np.uint8)


def test_colours_are_those_of_masks_but_255_is_white():
    assert np.array_equal(shown_palette()[:255], voc_palette()[:255])
    assert shown_palette()[255].tolist() == [255, 255, 255]
    assert not shown_palette().flags.writeable


def test_a_cam_is_red_where_it_is_high_and_blue_where_it_is_low():
    picture = heat(GREY, np.array([[0.0, 0.95]])).astype(int)
    assert picture.shape == GREY.shape
    assert picture[4, -1, 0] > picture[4, -1, 2]
    assert heat(GREY, np.array([[0.1]]))[4, 4, 2] > heat(GREY, np.array([[0.95]]))[4, 4, 2]


def test_an_overlay_tints_classes_and_dims_background():
    mask_HW = np.zeros((8, 12), np.uint8)
    mask_HW[:, 4:8] = 1
    mask_HW[:, 8:] = 255
    picture = overlay(GREY, mask_HW).astype(int)
    assert np.ptp(picture[4, 2]) == 0
    assert picture[4, 2, 0] > 100
    assert picture[4, 6].tolist() == [round(0.35 * 100 + 0.65 * 128), 35, 35]
    assert picture[4, 4].tolist() == [64, 0, 0]  # the line around it
    assert picture[4, 10].min() > 190


def test_a_grid_has_a_title_above_each_column():
    sheet = grid([[GREY, GREY], [GREY, GREY]], ("a", "b"))
    assert sheet.shape == (22 + 2 * 8 + GAP, 2 * 12 + GAP, 3)
    assert grid([[GREY]]).shape == GREY.shape
