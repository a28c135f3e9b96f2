import json
from pathlib import Path

import pytest

from stcl_cli.data.labels import Labels, match_labels, read_labels
from stcl_cli.data.labels.rows import file_in
from stcl_cli.data.photos import Photo
from stcl_cli.errors import StclError


@pytest.fixture
def read(tmp_path):
    def read(*tasks):
        (tmp_path / "project.json").write_text(json.dumps(tasks))
        return read_labels(tmp_path / "project.json", None, "label-studio")

    return read


def task(url, *choices, **more):
    return {"id": 5, "data": {"img": url}, "annotations": [{"result": [{"value": {"choices": [*choices]}}]}], **more}


def test_several_annotators_add_up_and_what_nobody_looked_at_is_left_out(read):
    both = {"result": [{"value": {"choices": ["cat"]}}, {"value": {"brushlabels": ["dog"], "rle": [1]}}, {"type": "x"}]}
    nothing = {"result": [], "was_cancelled": False}
    labels = read(
        task("a.jpg", annotations=[both, {"result": [{"value": {"choices": ["emu"]}}]}]),
        task("b.jpg", annotations=[nothing]),
        task("c.jpg", annotations=[]),
        task("d.jpg", annotations=[both | {"was_cancelled": True}]),
    )
    assert labels == Labels(("cat", "dog", "emu"), {"a.jpg": (0, 1, 2), "b.jpg": ()})


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("/data/local-files/?d=some%20dir/b%C3%A4r%20%231.jpg", "some dir/bär #1.jpg"),
        ("/data/upload/3/3f2a1b8c-b%C3%A4r.jpg", "/data/upload/3/3f2a1b8c-bär.jpg"),
        ("s3://bucket/sub/a%20b.jpg", "/sub/a b.jpg"),
        ("https://host/a.jpg?token=1", "/a.jpg"),
        ("sub/100%25 #1?.jpg", "sub/100%25 #1?.jpg"),  # no address: a name as it is
        ("/data/local-files/", ""),
        ("https://[host/a.jpg", "https://[host/a.jpg"),  # looks like an address, and is none
    ],
)
def test_addresses(url, file):
    assert file_in(url) == file


def test_of_several_files_the_photo_is_the_one_with_a_usual_name(read):
    data = {"thumb": "small/z.png", "Image": "a.jpg", "other": "c.jpg"}
    assert read({**task("a.jpg", "cat"), "data": data}).by_name == {"a.jpg": (0,)}


def test_uploaded_photos_match_with_and_without_the_digits_in_front(read):
    labels = read(task("/data/upload/3/3f2a1b8c-a.jpg", "cat"), task("/data/upload/3/00000000-b.jpg", "dog"))
    photos = [Photo("3f2a1b8c-a", Path("3f2a1b8c-a.jpg")), Photo("x/b", Path("x/b.jpg"))]
    assert match_labels(photos, labels).labelled == [(photos[0], (0,)), (photos[1], (1,))]


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        ([3], "task 1: has no data and annotations"),
        ([{"id": 8, "data": {}}], "task 8: has no data and annotations"),
        ([{"id": 8, "data": 3, "annotations": []}], "task 8: has no data and annotations"),
        ([{"data": {"x": 3}, "annotations": [{"result": []}]}], 'task 1: has no key "image"'),
        ([{"data": {}, "annotations": [{"result": [3]}]}], "task 1: has no data and annotations"),
        ([{"data": {}, "annotations": 3}], "task 1: has no data and annotations"),
        ([task("a.jpg", 3)], "task 5: 3 is no class name"),
        ([{"data": {"image": "a.jpg"}, "annotations": []}], "names no photo"),
    ],
)
def test_errors(read, tasks, reason):
    with pytest.raises(StclError, match=rf"project.json:? {reason}"):
        read(*tasks)
