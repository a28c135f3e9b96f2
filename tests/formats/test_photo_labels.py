import pytest

from stcl_cli.errors import StclError
from stcl_cli.formats.photo_labels import (
    add_photo_labels,
    check_photo_labels,
    read_photo_labels,
    write_photo_labels,
)


def test_they_are_kept_in_their_order(tmp_path):
    assert read_photo_labels(tmp_path) is None
    labels = {"b/bär 1": ["dog", "cat"], "a": []}
    write_photo_labels(tmp_path, labels)
    assert list(read_photo_labels(tmp_path).items()) == list(labels.items())


def test_new_photos_join_behind(tmp_path):
    add_photo_labels(tmp_path, {"b": ["cat"]})
    add_photo_labels(tmp_path, {"a": ["dog"], "b": ["cat"]})
    add_photo_labels(tmp_path, {"a": ["dog"]})
    assert list(read_photo_labels(tmp_path).items()) == [("b", ["cat"]), ("a", ["dog"])]


def test_changed_labels_are_refused_by_name(tmp_path):
    check_photo_labels(tmp_path, {"a": ["cat"]})
    write_photo_labels(tmp_path, {"a": ["cat"], "b": ["dog"]})
    check_photo_labels(tmp_path, {"c": [], "b": ("dog",)})
    check_photo_labels(tmp_path, {})
    with pytest.raises(StclError, match=r"was begun with other labels of b, a; go on with those, do it anew with --ov"):
        check_photo_labels(tmp_path, {"b": [], "a": ["cat", "dog"], "c": []})


@pytest.mark.parametrize("text", ["[]", '{"a": "cat"}', "3"])
def test_what_does_not_name_photos_with_classes_is_refused(tmp_path, text):
    (tmp_path / "photos.json").write_text(text)
    with pytest.raises(StclError, match=r"photos\.json: does not name photos with their classes"):
        read_photo_labels(tmp_path)
