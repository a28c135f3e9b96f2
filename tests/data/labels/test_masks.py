import numpy as np
import pytest
from PIL import Image

from stcl_cli.data.labels import Labels, read_labels
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import write_classes
from stcl_cli.formats.masks import write_mask


@pytest.fixture
def folder(tmp_path):
    write_mask(tmp_path / "masks" / "a.png", np.array([[0, 1, 255, 3]], np.uint8))
    write_mask(tmp_path / "masks" / "sub" / "b.png", np.array([[0, 255]], np.uint8))
    return tmp_path / "masks"


@pytest.mark.parametrize("place", ["masks", "."])
def test_what_a_mask_holds_its_photo_shows(tmp_path, folder, place):
    write_classes(tmp_path / place / "classes.txt", ["dog", "emu", "cat"])
    assert read_labels(folder, None, "masks") == Labels(("dog", "emu", "cat"), {"a": (0, 2), "sub/b": ()})
    assert read_labels(folder, ["cat", "dog", "emu"], "masks").by_name["a"] == (0, 1)  # by name, not by value


def test_the_folder_that_holds_voc_s(tmp_path, folder):
    folder.rename(tmp_path / "SegmentationClass")
    write_classes(tmp_path / "classes.txt", ["dog", "emu", "cat"])
    assert read_labels(tmp_path) == Labels(("dog", "emu", "cat"), {"a": (0, 2), "sub/b": ()})


def test_names_from_the_command_line(folder):
    assert read_labels(folder, ["dog", "emu", "cat"], "masks").by_name["a"] == (0, 2)
    with pytest.raises(StclError, match=r"masks: no classes.txt in or beside it; write one, a class a line"):
        read_labels(folder, None, "masks")
    with pytest.raises(StclError, match=r"a.png: holds class 3, but 2 are known; name them all"):
        read_labels(folder, ["dog", "emu"], "masks")


def test_masks_in_colours(folder):
    Image.new("RGB", (2, 2)).save(folder / "c.png")
    with pytest.raises(StclError, match=r"c.png: is in colours"):
        read_labels(folder, ["dog", "emu", "cat"], "masks")
