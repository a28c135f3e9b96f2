import os

import numpy as np
import pytest
from PIL import Image

from stcl_cli.config import PredictConfig
from stcl_cli.data.photos import Photo
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats.classes import read_classes
from stcl_cli.formats.runs import read_config, read_jsonl, write_config
from stcl_cli.stages.output import OVERLAY_SIDE, MaskFolder, skip, take_folder, write_overlay

MASK = np.array([[0, 0, 1], [2, 2, 255]], np.uint8)


@pytest.fixture
def photo(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (3, 2), "green").save(tmp_path / "photos" / "bär 1.png")
    return Photo("sub/bär 1", tmp_path / "photos" / "bär 1.png")


@pytest.fixture
def open_masks(tmp_path):
    def run(overlays=None, **settings):
        overlays = None if overlays is None else str(tmp_path / overlays)
        config = PredictConfig(images="photos", model="m", output=str(tmp_path / "out"), overlays=overlays, **settings)
        return MaskFolder(config, "predict", ("cat", "dog"))

    return run


def test_a_mask_is_an_item(open_masks, photo, tmp_path):
    folder = open_masks()
    assert not folder.has("sub/bär 1")
    path = tmp_path / "out" / "sub" / "bär 1.png"
    assert folder.write(photo, MASK) == {
        "image": "sub/bär 1",
        "output": path,
        "classes": ["cat", "dog"],
        "ignored": 0.1667,
    }
    assert folder.has("sub/bär 1")
    assert path.is_file()


def test_an_overlay_beside_it_and_one_for_a_mask_that_has_none(open_masks, photo, tmp_path):
    open_masks().write(photo, MASK)
    folder = open_masks(overlays="look", resume=True)
    assert not folder.has("sub/bär 1")
    before = os.stat(folder.mask_path("sub/bär 1"))
    item = folder.write(photo, MASK)
    assert item["overlay"] == tmp_path / "look" / "sub" / "bär 1.jpg"
    assert os.stat(folder.mask_path("sub/bär 1")).st_mtime_ns == before.st_mtime_ns  # not written again
    assert folder.has("sub/bär 1")
    with Image.open(item["overlay"]) as image:
        assert (image.format, image.size) == ("JPEG", (3, 2))


def test_overlays_in_the_folder_of_masks_are_no_masks(open_masks, photo):
    folder = open_masks(overlays="out/look")
    folder.write(photo, MASK)
    open_masks(overlays="out/look", resume=True)
    assert sorted(path.suffix for path in folder.path.rglob("*1.*")) == [".jpg", ".png"]


def test_overlays_of_another_run_are_not_taken_for_this_one_s(open_masks, tmp_path):
    open_masks(overlays="look")
    open_masks(overlays="look", resume=True)
    (tmp_path / "out").rename(tmp_path / "before")
    with pytest.raises(StclError, match=r"look: holds what another run has made, with -o .*out; give another"):
        open_masks(overlays="look", resume=True)
    write_config(tmp_path / "look", "train", {})
    with pytest.raises(StclError, match="look: was made by stcl train"):
        open_masks(overlays="look", resume=True)
    assert read_config(tmp_path / "look")[0] == "train"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("overlays", ["out", "."])
def test_overlays_need_a_folder_of_their_own(open_masks, overlays):
    with pytest.raises(StclError, match=r"--overlays .*: holds the masks"):
        open_masks(overlays=overlays)


def test_an_overlay_folder_in_use_is_refused(open_masks, tmp_path):
    (tmp_path / "look").mkdir()
    (tmp_path / "look" / "holiday.jpg").touch()
    for overwrite in (False, True):
        with pytest.raises(StclError, match=r"look: holds files but no config\.json"):
            open_masks(overlays="look", overwrite=overwrite)
    assert not (tmp_path / "out").exists()


def test_a_wrong_overlay_folder_is_noticed_before_masks_are_deleted(open_masks, photo, tmp_path):
    open_masks().write(photo, MASK)
    (tmp_path / "look").mkdir()
    (tmp_path / "look" / "holiday.jpg").touch()
    with pytest.raises(StclError, match=r"look: holds files"):
        open_masks(overlays="look", overwrite=True)
    assert open_masks(resume=True).has(photo.name)


def test_an_overlay_shows_the_mask_on_the_photo(tmp_path):
    Image.new("RGB", (2 * OVERLAY_SIDE, 100), "green").save(tmp_path / "wide.png")
    mask_HW = np.zeros((100, 2 * OVERLAY_SIDE), np.uint8)
    mask_HW[:, OVERLAY_SIDE:] = 1  # VOC's dark red
    write_overlay(tmp_path / "x.jpg", Photo("wide", tmp_path / "wide.png"), mask_HW)
    with Image.open(tmp_path / "x.jpg") as image:
        assert image.size == (OVERLAY_SIDE, 50)
        left, right = (np.array(image.getpixel((x, 25)), int) for x in (200, 800))
    assert right[0] > right[1] > right[2]
    assert np.ptp(left) < 10  # background is grey
    with pytest.raises(PhotoError, match="cannot be read"):
        write_overlay(tmp_path / "y.jpg", Photo("gone", tmp_path / "gone.png"), mask_HW)


def test_what_is_skipped_is_on_record(open_masks):
    failures = open_masks().failures
    skip(failures, [("a", "is broken"), ("b", PhotoError("b.jpg: is empty"))])
    assert read_jsonl(failures.path) == [
        {"image": "a", "reason": "is broken"},
        {"image": "b", "reason": "b.jpg: is empty"},
    ]


def test_a_run_of_other_values_is_refused_with_its_cures(tmp_path):
    folder = tmp_path / "my masks"
    values = {"images": "photos", "model": "SEG", "output": str(folder)}
    take_folder(PredictConfig(**values, flip=False), "predict", resume=False)
    take_folder(PredictConfig(**values, flip=False, device="cpu", workers=3), "predict", resume=True)
    with pytest.raises(StclError, match=r"started with flip = False, not True; go on with --config '.*my masks', do"):
        take_folder(PredictConfig(**values), "predict", resume=True)
    assert take_folder(PredictConfig(**values, overwrite=True), "predict", resume=False) == folder


@pytest.mark.parametrize(
    ("classes", "what"),
    [(("dog", "zebra"), "without zebra"), (("cat",), "with dog"), (("dog", "cat"), "in another order")],
)
def test_a_run_does_not_go_on_with_other_classes(tmp_path, classes, what):
    config = PredictConfig(images="photos", model="SEG", output=str(tmp_path / "out"))
    take_folder(config, "predict", False, ("cat", "dog"))
    with pytest.raises(StclError, match=rf"out: was begun with other classes \({what}\); go on with those, do it anew"):
        take_folder(config, "predict", True, classes)
    assert read_classes(tmp_path / "out" / "classes.txt") == ("cat", "dog")
    take_folder(config, "predict", True, ("cat", "dog"))
