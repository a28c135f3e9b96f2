import unicodedata
from pathlib import Path

import label_files
import pytest

from stcl_cli.config import LABEL_FORMATS
from stcl_cli.data.labels import JSON_READERS, READERS, Labels, match_labels, read_labels
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import write_classes
from stcl_cli.formats.files import to_json


def class_table(root, labels):
    """What the chain makes of labels: the bytes of classes.txt, and photo -> indices."""
    write_classes(root / "written.txt", labels.classes)
    matched = match_labels(list_photos(root / "images").photos, labels)
    return (root / "written.txt").read_bytes() + to_json({p.name: shows for p, shows in matched.labelled}).encode()


CASES = [(name, table) for name, (_, _, tables) in label_files.WRITERS.items() for table in tables]


@pytest.mark.parametrize("order", [None, ("hot_dog", "emu", "dining table", "Bär", "cat")])
@pytest.mark.parametrize(("name", "table"), CASES)
def test_every_format_gives_the_same_bytes(tmp_path, name, table, order):
    write, kind, _ = label_files.WRITERS[name]
    shows = table()
    label_files.draw(tmp_path / "images", shows)
    path = write(tmp_path, shows)
    expected = Labels(
        order or label_files.CLASSES,
        {name: tuple(sorted((order or label_files.CLASSES).index(c) for c in shown)) for name, shown in shows.items()},
    )
    labels = read_labels(path, order)
    assert labels.format == kind
    assert class_table(tmp_path, labels) == class_table(tmp_path, expected)
    assert read_labels(path, order, kind) == labels  # the same when the format is named


def test_the_formats_are_those_of_the_command_line():
    assert ("auto", *sorted([*READERS, *JSON_READERS])) == LABEL_FORMATS


def test_255_classes_are_too_many(tmp_path):
    (tmp_path / "labels.csv").write_text("a," + ";".join(f"c{i}" for i in range(255)))
    with pytest.raises(StclError, match="names 255 classes"):
        read_labels(tmp_path / "labels.csv")


def test_no_photo_at_all(tmp_path):
    (tmp_path / "labels.csv").write_text("image,labels\n")
    with pytest.raises(StclError, match=r"labels.csv: names no photo; read as csv, see --labels-format"):
        read_labels(tmp_path / "labels.csv")


def test_a_class_that_is_not_in_the_list(tmp_path):
    (tmp_path / "labels.json").write_text('{"a": ["cat"], "b": ["dgo"]}')
    with pytest.raises(StclError, match=r"labels.json key 'b': unknown class 'dgo'; correct it to 'dog', add it"):
        read_labels(tmp_path / "labels.json", ["cat", "dog"])


# ---- photos and labels -------------------------------------------------------------------------------------------


def test_match():
    photos = [Photo(name, Path(f"{name}.jpg")) for name in ("a", "b", "sub/c", "sub/d", "e")]
    labels = Labels(("cat", "dog"), {"a.jpg": (0,), "b": (), "c.jpg": (1,), "a": (1,), "none": (0,), "x/e": (0,)})
    matched = match_labels(photos, labels)
    assert [(photo.name, shows) for photo, shows in matched.labelled] == [
        ("a", (0, 1)),
        ("b", ()),
        ("sub/c", (1,)),
        ("e", (0,)),
    ]
    assert matched.unlabelled == [photos[3]]
    assert [name for name, _ in matched.missing] == ["none"]


@pytest.mark.parametrize(("on_disk", "written"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_match_in_another_unicode_form(on_disk, written):
    name = unicodedata.normalize(on_disk, "sub/bär 01")
    photos = [Photo(name, Path(f"{name}.jpg"))]
    labels = Labels(("cat",), {unicodedata.normalize(written, "sub/bär 01.jpg"): (0,)})
    assert match_labels(photos, labels).labelled == [(photos[0], (0,))]
