import pytest

from stcl_cli.data.labels import Labels, match_labels, read_labels
from stcl_cli.data.photos import list_photos
from stcl_cli.errors import StclError


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_a_folder_a_class(tmp_path):
    touch(tmp_path, "dog/1.jpg", "dog/1.png", "cat/deep/1.jpg", "cat/.hidden.jpg", "loose.jpg", "notes/x.txt")
    labels = read_labels(tmp_path, None)
    assert labels == Labels(("cat", "dog"), {"cat/deep/1": (0,), "dog/1.jpg": (1,), "dog/1.png": (1,)})
    matched = match_labels(list_photos(tmp_path).photos, labels)
    assert [(photo.name, shows) for photo, shows in matched.labelled] == list(labels.by_name.items())
    assert [photo.name for photo in matched.unlabelled] == ["loose"]
    assert matched.missing == []
    assert read_labels(tmp_path, ["dog", "emu", "cat"]).by_name["cat/deep/1"] == (2,)


def test_folders_that_are_no_classes(tmp_path):
    touch(tmp_path, "a.jpg")
    with pytest.raises(StclError, match="no sub-folders with photos"):
        read_labels(tmp_path, None)
    touch(tmp_path, "emu/a.jpg")
    with pytest.raises(StclError, match=r"emu/a.jpg: unknown class 'emu'"):
        read_labels(tmp_path, ["cat"])
