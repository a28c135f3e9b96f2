import numpy as np
import pytest

from stcl_cli.errors import PhotoError, StclError
from stcl_cli.evaluation.cam_sweep import CamSweep
from stcl_cli.evaluation.comparing import compare_cam, compare_mask, read_truth, true_classes
from stcl_cli.formats.cams import CamFile
from stcl_cli.formats.masks import write_mask

TRUTH = np.array([[0, 1, 255], [2, 2, 1]], np.uint8)


def test_a_true_mask_of_known_classes(tmp_path):
    write_mask(tmp_path / "x.png", TRUTH)
    two, one = (true_classes(names, tmp_path) for names in (("cat", "dog"), ("cat",)))
    assert np.array_equal(read_truth(tmp_path / "x.png", two), TRUTH)
    with pytest.raises(
        StclError, match=r"x\.png: holds class 2, but 1 are known; name them all in a classes.txt"
    ) as error:
        read_truth(tmp_path / "x.png", one)
    assert not isinstance(error.value, PhotoError)  # the others will be wrong too: no reason to go on
    with pytest.raises(PhotoError, match=r"y\.png"):
        read_truth(tmp_path / "y.png", one)


def test_classes_of_the_truth_are_known_by_their_names(tmp_path):
    """In another order, and with one that is not predicted; one that is predicted is not in it."""
    write_mask(tmp_path / "x.png", TRUTH)
    (tmp_path / "classes.txt").write_text("background\ndog\nemu\n")
    classes = true_classes(("cat", "dog"), tmp_path)
    assert classes.names == ("cat", "dog", "emu")
    assert read_truth(tmp_path / "x.png", classes).tolist() == [[0, 2, 255], [3, 3, 2]]
    assert classes.reordered
    (tmp_path / "classes.txt").write_text("cat\n")
    assert not true_classes(("cat", "dog"), tmp_path).reordered
    with pytest.raises(StclError, match="holds class 2, but 1 are known"):
        read_truth(tmp_path / "x.png", true_classes(("cat", "dog"), tmp_path))


def test_a_mask_is_counted_where_the_truth_is_sure(tmp_path):
    matrix = compare_mask(tmp_path / "x.png", np.array([[0, 2, 1], [2, 255, 1]], np.uint8), TRUTH, 2, 2)
    assert matrix.tolist() == [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1]]
    with pytest.raises(PhotoError, match=r"x\.png: is 2 x 3, but the true mask is 3 x 2; make it at the photo's size"):
        compare_mask(tmp_path / "x.png", TRUTH.T, TRUTH, 2, 2)


def test_strips_count_as_the_whole_does(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    truth_HW, mask_HW = rng.integers(0, 3, (2, 20, 30), dtype=np.uint8)
    cam = CamFile(("cat", "dog"), (0, 1), rng.random((2, 5, 8)).astype(np.float32), (20, 30))
    counted = []
    for strip in (10**9, 70):
        monkeypatch.setattr("stcl_cli.strips.STRIP", strip)
        compare_cam(tmp_path / "x", cam, truth_HW, sweep := CamSweep(2), cam.classes)
        counted.append((compare_mask(tmp_path / "x", mask_HW, truth_HW, 2, 2).tolist(), sweep.counts.tolist()))
    assert counted[0] == counted[1]


def test_cams_grow_to_the_size_of_the_truth(tmp_path):
    truth_HW = np.zeros((4, 8), np.uint8)
    truth_HW[:, 4:] = 1
    cam = CamFile(("cat",), (0,), np.array([[[0.0, 1.0]]], np.float32), (4, 8))
    sweep = CamSweep(1)
    compare_cam(tmp_path / "x", cam, truth_HW, sweep, ["cat"])
    assert sweep.best()[0] == 1
    with pytest.raises(PhotoError, match=r"is of another photo than the true mask \(4 x 8\)"):
        compare_cam(tmp_path / "x", cam, truth_HW.T, sweep, ["cat"])


def test_classes_of_cams_are_known_by_their_names(tmp_path):
    truth_HW = np.array([[0, 0, 2, 2]], np.uint8)
    maps_KHW = np.array([[[0, 0, 0, 1]], [[0, 0, 1, 0]]], np.float32)
    cam = CamFile(("emu", "dog", "cat"), (0, 2), maps_KHW, (1, 4))
    sweep = CamSweep(2)
    compare_cam(tmp_path / "x", cam, truth_HW, sweep, ["emu", "cat"])
    assert sweep.confusion(50).tolist() == [[2, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 0]]
    with pytest.raises(StclError, match=r"x: has a map of class 'cat', which is not among the 1 classes that are comp"):
        compare_cam(tmp_path / "x", cam, truth_HW, CamSweep(1), ["emu"])
