from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stcl_cli.data.photo_masks import MaskSizeError, MaskTally, count_values, read_full_mask, sample_masks
from stcl_cli.data.photos import Photo
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats.masks import write_mask


def photo_and_mask(root, name, mask, size=None):
    mask = np.asarray(mask, np.uint8)
    height, width = size or mask.shape
    Image.new("RGB", (width, height)).save(root / f"{name}.jpg")
    write_mask(root / f"{name}.png", mask)
    return Photo(name, root / f"{name}.jpg"), root / f"{name}.png"


def test_masks_that_do_not_fit(tmp_path):
    photo, path = photo_and_mask(tmp_path, "a", [[0, 2, 255]])
    assert read_full_mask(path, photo, 2).tolist() == [[0, 2, 255]]
    with pytest.raises(PhotoError, match=r"a.png: holds class 2, but there are 1 classes; name them all"):
        read_full_mask(path, photo, 1)
    photo, path = photo_and_mask(tmp_path, "b", [[0, 2]], size=(3, 4))
    with pytest.raises(MaskSizeError, match=r"b.png: the mask is 2 x 1, its photo 4 x 3; make it anew of that photo"):
        read_full_mask(path, photo, 2)


def test_tally():
    tally = MaskTally(("cat", "dog", "emu"))
    for name, mask in {"a": [[0, 0, 1, 255]], "b": [[3, 3], [1, 1]], "c": [[0, 255]], "d": [[0, 0]]}.items():
        tally.add(name, count_values(np.array(mask, np.uint8)))
    assert tally.summary() == {
        "masks": 4,
        "classes": {
            "cat": {"masks": 2, "share": 0.25},
            "dog": {"masks": 0, "share": 0.0},
            "emu": {"masks": 1, "share": round(2 / 12, 6)},
        },
        "background": round(5 / 12, 6),
        "ignored": round(2 / 12, 6),
        "all_background": ["c", "d"],
    }
    assert tally.describe(4) == (
        "4 masks looked at: 41.7% of the pixels background, 16.7% ignored (255), 2 of 3 classes in them"
    )
    assert tally.describe(5000).startswith("4 of 5,000 masks looked at: ")


def test_no_masks_have_shares_of_nothing():
    assert MaskTally(()).summary() == {
        "masks": 0, "classes": {}, "background": 0.0, "ignored": 0.0, "all_background": []
    }  # fmt: skip


@pytest.mark.parametrize(("photos", "looked_at"), [(1, 1), (31, 31), (32, 32), (33, 17), (100, 25), (1000, 32)])
def test_samples_are_spread_over_all(monkeypatch, photos, looked_at):
    seen = []
    monkeypatch.setattr("stcl_cli.data.photo_masks.read_full_mask", lambda path, photo, classes: seen.append(path) or M)
    M = np.eye(2, dtype=np.uint8)
    names = [f"{n:04}" for n in range(photos)]
    tally = sample_masks([Photo(name, Path(name)) for name in names], {name: name for name in names}, ("cat",))
    assert tally.masks == tally.holding[1] == len(seen) == looked_at
    assert seen[0] == "0000"
    assert int(seen[-1]) >= photos * 0.9 - 1


def test_where_a_sample_holds_no_class_the_others_are_looked_at_until_one_does(monkeypatch):
    seen = []

    def read(path, photo, classes):
        seen.append(path)
        return np.full((2, 2), path == holds, np.uint8)

    monkeypatch.setattr("stcl_cli.data.photo_masks.read_full_mask", read)
    names = [f"{n:04}" for n in range(100)]
    photos, masks = [Photo(name, Path(name)) for name in names], {name: name for name in names}
    holds = "0007"
    assert not sample_masks(photos, masks, ("cat",)).blank
    assert len(seen) == 25 + 6  # those of 1, 2, 3, 5, 6 and 7
    seen.clear()
    holds = ""
    assert sample_masks(photos, masks, ("cat",)).blank
    assert sorted(seen) == names


def test_of_masks_that_cannot_be_used_no_more_are_looked_at(monkeypatch):
    seen = []

    def read(path, photo, classes):
        seen.append(path)
        raise PhotoError("is in colours")

    monkeypatch.setattr("stcl_cli.data.photo_masks.read_full_mask", read)
    names = [f"{n:04}" for n in range(100)]
    with pytest.raises(StclError, match="none of 25 masks looked at can be used; the first: is in colours"):
        sample_masks([Photo(name, Path(name)) for name in names], {name: name for name in names}, ("cat",))
    assert len(seen) == 25


def test_a_sample_with_nothing_to_use(tmp_path):
    pairs = [photo_and_mask(tmp_path, name, [[1]], size) for name, size in (("a", (9, 9)), ("b", (9, 9)), ("c", None))]
    photos, masks = [photo for photo, _ in pairs], {photo.name: path for photo, path in pairs}
    assert sample_masks(photos, masks, ("cat",)).masks == 1
    with pytest.raises(
        StclError, match=r"none of 2 masks looked at can be used; the first: .*a.png: the mask is 1 x 1"
    ):
        sample_masks(photos[:2], masks, ("cat",))
