import os

import numpy as np
import pytest
from PIL import Image

from stcl_cli.data.labels.recognise import recognise
from stcl_cli.errors import StclError


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("x.csv", "[1].jpg,cat", "csv"),
        ("x", "[1].jpg,cat", "json"),  # content that begins so is JSON until a suffix says otherwise
        ("x", "a.jpg,cat", "csv"),
        ("x.txt", "a.jpg\tcat", "csv"),
        ("x.JSON", "\n\n {", "json"),
        ("x.ndjson", "", "json"),
        ("x", "\ufeff {}", "json"),
        ("x.yml", "names: [a]", "yolo"),
        ("x", "<annotations>", "cvat"),
        ("x", b"\x93NUMPY\x01\x00", "npy"),
        ("x", '{"a": "b"}'.encode("utf-16"), "json"),
    ],
)
def test_files(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert recognise(tmp_path / name) == kind


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK\x03\x04", "is a ZIP archive or an Excel file; unpack the one, save the other as CSV"),
        (b"\x80\x04}", "is a pickle, which could run anything"),
        (b"\x89PNG\r\n", "is one image; give the folder of masks"),
        (b"\xff\xd8\xff\xe0", "is a photo; give the labels"),
    ],
)
def test_files_that_are_no_labels(tmp_path, content, reason):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(StclError, match=reason):
        recognise(tmp_path / "x")


def test_pipes_and_missing_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StclError, match="pipe: is not a regular file; save the labels in one"):
        recognise(tmp_path / "pipe")
    with pytest.raises(StclError, match=r"none: cannot be read \(No such file or directory\); check the path"):
        recognise(tmp_path / "none")


def image(mode):
    return Image.fromarray(np.ones((2, 2), np.uint8)).convert(mode)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["data.yaml", "train/x.jpg"], "yolo"),
        (["obj.names", "obj.data", "train.txt", "obj_train_data/a.txt"], "yolo"),
        (["annotations.xml", "images/a.jpg"], "cvat"),
        (["Annotations/a.xml", "JPEGImages/a.jpg", "ImageSets/Main/train.txt"], "voc"),
        (["SegmentationClass/P.png", "classes.txt", "train.txt"], "masks"),
        (["a.xml", "a.jpg", "b.jpg"], "voc"),
        (["train/a.xml", "train/a.jpg"], "voc"),
        (["classes.txt", "labels/a.txt", "images/a.jpg"], "yolo"),
        (["classes.txt", "a.txt", "a.jpg"], "yolo"),
        (["cat.txt", "dog.txt"], "lists"),
        (["cat.txt", "photos/a.jpg"], "lists"),
        (["cat/a.jpg", "dog/b.jpg"], "folders"),
        (["cat/a.jpg", "dog/b.jpg", "cat/notes.xml", "dog/x.json"], "folders"),
        (["classes.txt", "cat/L.png", "dog/L2.png"], "folders"),
        (["classes.txt", "cat/P.png", "dog/P2.png"], "masks"),
        (["classes.txt", "sub/L.png"], "masks"),
        (["classes.txt", "L.png"], "masks"),
        (["P.png"], "masks"),
        (["RGB.png"], "folders"),
        (["loose.jpg"], "folders"),
        ([], "folders"),
    ],
)
def test_folders(tmp_path, files, kind):
    for file in files:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.endswith(".png"):
            image(path.stem.rstrip("2")).save(path)
        else:
            path.write_text("cat\ndog\n" if file == "classes.txt" else "{}" if file.endswith(".json") else "")
    if files.count("cat/notes.xml"):  # two photos more, so that the odd file is no file a photo
        for name in ("c", "d"):
            (tmp_path / "dog" / f"{name}.jpg").touch()
    assert recognise(tmp_path) == kind


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (["s1/a.jpg", "s1/a.xml", "s1/b.jpg", "s1/c.jpg"], r"holds sub-folders of photos, and s1/a.xml; say which"),
        (["s1/a.JPG", "s1/a.json", "s2/b.jpg", "s2/c.jpg"], r"holds sub-folders of photos, and s1/a.json; say which"),
        (["images/train/a.jpg", "labels/train/a.txt", "dataset.yaml"], r"sub-folders of photos, and dataset.yaml; say"),
        (["train/cat/a.jpg", "val/dog/b.jpg"], r"its sub-folders are called train, val, like parts of a data set"),
    ],
)
def test_folders_that_are_not_called_after_classes(tmp_path, files, reason):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text('{"shapes": []}')
    with pytest.raises(StclError, match=reason):
        recognise(tmp_path)


def test_a_folder_that_stcl_wrote_names_its_label_file(tmp_path):
    (tmp_path / "annotations").mkdir()
    for name in ("config.json", "photos.json", "annotations/instances_train.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(
        StclError, match=r"no folder of labels; give a file, such as .*annotations/instances_train.json"
    ):
        recognise(tmp_path)


def test_labelme_or_one_file_among_photos(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "_annotations.coco.json").write_text('{"images": []}')
    with pytest.raises(StclError, match=r"is no folder of labels; give a file, such as .*_annotations.coco.json"):
        recognise(tmp_path)
    (tmp_path / "_annotations.coco.json").write_text('{"shapes": []}')
    assert recognise(tmp_path) == "labelme"
