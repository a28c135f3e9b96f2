import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stcl_cli.data.matching import match_names, stem, with_suffix
from stcl_cli.data.photos import Photo


def photos(*paths, named=()):
    """Photos of a folder, named without suffix unless listed in `named`."""
    return [Photo(path if path in named else stem(path), Path("folder", path)) for path in paths]


def match(name, *paths, named=()):
    found = match_names([name], photos(*paths, named=named))
    return with_suffix(found[name]) if found else None


def test_stem():
    assert stem("sub.dir/photo.v1.JPG") == "sub.dir/photo.v1"
    assert stem("photo.v1") == "photo.v1"
    assert stem(".jpg") == ".jpg"


@pytest.mark.parametrize(
    "name",
    ["sub/bär 1", "sub/bär 1.jpg", "sub/bär 1.JPG", "sub/bär 1.png", "./sub//bär 1", "sub\\bär 1.jpg", " bär 1 "],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("disk_form", ["NFC", "NFD"])
def test_ways_to_write_a_name(name, form, disk_form):
    path = unicodedata.normalize(disk_form, "sub/bär 1.jpg")
    assert match(unicodedata.normalize(form, name), "other/x.jpg", path) == path


def test_paths_of_this_machine():
    absolute = str(Path("folder/sub/a.jpg").absolute())
    for name in (absolute, absolute[:-4], "folder/sub/a.jpg", "./folder/sub/a"):
        assert match(name, "sub/a.jpg", "a.jpg") == "sub/a.jpg"


def test_names_of_an_export_of_two_photos_that_differ_in_their_suffix():
    for kind in ("jpg", "png"):
        for name in (f"side.{kind}.jpg", f"/elsewhere/images/side.{kind}.jpg", f"/elsewhere/side.{kind}"):
            assert match(name, "side.jpg", "side.png") == f"side.{kind}", name


def test_a_suffix_decides_between_two_photos():
    both = ("a.jpg", "a.png")
    assert match("a.jpg", *both, named=both) == "a.jpg"
    assert match("a.png", *both, named=both) == "a.png"
    assert match("a.JPG", *both, named=both) is None
    assert match("a", *both, named=both) is None


def test_two_unicode_forms_on_disk_are_two_photos():
    nfc, nfd = (unicodedata.normalize(form, "bär.jpg") for form in ("NFC", "NFD"))
    for path in (nfc, nfd):
        assert match(path, nfc, nfd) == path
        assert match(stem(path), nfc, nfd) == path


def test_base_names_only_where_they_are_unique():
    assert match("JPEGImages/a.jpg", "train/a.jpg", "train/b.jpg") == "train/a.jpg"
    assert match("a", "cat/a.jpg", "dog/a.jpg") is None
    assert match("other/a", "cat/a.jpg", "dog/a.jpg") is None
    assert match_names(["cat/a", "dog/a"], photos("train/a.jpg")) == {}
    # the photo dog/a is named exactly: cat/a cannot mean it
    assert list(match_names(["cat/a", "dog/a"], photos("dog/a.jpg"))) == ["dog/a"]


def test_ends_of_paths_as_long_as_possible():
    both = ("train/a.jpg", "val/a.jpg")
    assert match("images/train/a.jpg", *both) == "train/a.jpg"
    assert match("/theirs/images/val/a", *both) == "val/a.jpg"
    assert match("a", "x/train/a.jpg", "x/val/a.jpg") is None
    assert match("train/a", "x/train/a.jpg", "x/val/a.jpg") == "x/train/a.jpg"
    assert match("other/train/a", "x/train/a.jpg", "x/val/a.jpg") == "x/train/a.jpg"
    assert match_names(["p/train/a", "q/train/a"], photos("train/a.jpg")) == {}
    assert match_names(["p/a", "q/a.jpg"], photos("train/a.jpg")) == {}
    named = match_names(["p/train/a", "p/val/a", "p/none/b"], photos("train/a.jpg", "val/a.jpg", "other/b.jpg"))
    assert {name: photo.name for name, photo in named.items()} == {
        "p/train/a": "train/a",
        "p/val/a": "val/a",
        "p/none/b": "other/b",
    }


def test_an_end_means_no_photo_of_another_known_folder():
    # numbers begin anew in each folder: the labels of train/1 would become those of test/1
    assert list(match_names(["train/1", "test/2"], photos("test/1.jpg", "test/2.jpg"))) == ["test/2"]
    assert match("train/1", "test/1.jpg", "train/2.jpg") is None
    assert match("/theirs/train/1", "test/1.jpg", "train/2.jpg") is None
    assert match("train/3f2a1b8c-1.jpg", "test/1.jpg", "train/2.jpg") is None
    assert match("train/1", "images/1.jpg", "images/2.jpg") == "images/1.jpg"
    assert match_names(["train/1", "test/1"], [Photo("1", Path("data/test/1.jpg"))]) == {}
    # nor by less of the path, where folders of classes are called alike
    assert match("train/cat/1", "test/cat/1.jpg", "train/cat/2.jpg") is None
    assert list(match_names(["train/cat/1", "test/cat/2"], photos("test/cat/1.jpg", "test/cat/2.jpg"))) == [
        "test/cat/2"
    ]
    # Label Studio's numbers of projects are no folders of the photos
    uploads = [f"/data/upload/1/3f2a1b8{digit}-{name}.jpg" for digit, name in enumerate("xy")]
    assert set(match_names(uploads, photos("1/x.jpg", "2/y.jpg"))) == set(uploads)
    # a root of photos is not in their names
    assert match("/content/photos/b.jpg", "a.jpg", "day2/b.jpg") == "day2/b.jpg"


def test_digits_that_label_studio_puts_before_names():
    assert match("/data/upload/1/3f2a1b8c-a.jpg", "sub/a.jpg") == "sub/a.jpg"
    assert match("3f2a1b8c-a.jpg", "a.jpg", "3f2a1b8c-a.jpg") == "3f2a1b8c-a.jpg"
    assert match("3f2a1b8-a.jpg", "a.jpg") is None
    assert match("3f2a1b8c-a.jpg", "x/a.jpg", "y/a.jpg") is None
    assert match_names(["3f2a1b8c-a.jpg", "00000000-a.jpg"], photos("a.jpg")) == {}


def test_several_names_of_one_photo():
    assert set(match_names(["a", "a.jpg", "./a"], photos("a.jpg"))) == {"a", "a.jpg", "./a"}


@given(st.lists(st.from_regex(r"\A[ab]{1,2}(/[ab]{1,2})?\Z"), unique=True, min_size=1))
def test_every_own_name_means_its_photo(stems):
    listed = photos(*(f"{name}.jpg" for name in stems))
    found = match_names(stems, listed)
    assert {name: photo.name for name, photo in found.items()} == {name: name for name in stems}
