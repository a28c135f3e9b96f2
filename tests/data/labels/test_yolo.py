import pytest

from stcl_cli.data.labels import Labels, match_labels, read_labels
from stcl_cli.data.photos import list_photos
from stcl_cli.errors import StclError


@pytest.fixture
def write(tmp_path):
    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


def by_photo(root, path, images="images", classes=None):
    labels = read_labels(path, classes)
    matched = match_labels(list_photos(root / images).photos, labels)
    return labels.classes, {photo.name: shows for photo, shows in matched.labelled}


LABELS = {"labels/train/x.txt": "1 .5 .5 .1 .1\n\n0 0 0 1 1 0 1\r\n", "labels/val/x.txt": "1 .5 .5 .1 .1 0.9\n"}
PHOTOS = {"images/train/x.jpg": "", "images/train/none.jpg": "", "images/val/x.jpg": ""}
EXPECTED = (("dog", "cat"), {"train/x": (0, 1), "train/none": (), "val/x": (1,)})


@pytest.mark.parametrize(
    "settings",
    [
        "path: .\ntrain: images/train\nval: images/val\ntest:\nnames: {0: dog, 1: cat}",
        "path: /theirs/set\ntrain: images/train\nval: [images/val]\ntest: null\nnames:\n- dog\n- cat",
        "train: ../images/train\nval: ../images/val\ntest: ../images/test\nnc: 2\nnames: ['dog', 'cat']",  # Roboflow
        "train: images\nnames: [dog, cat]",
        "nc: 2\nnames: [dog, cat]",  # supervision
        "train: train.txt\nval: val.txt\nnames:\n  0: dog\n  1: cat",  # CVAT
    ],
)
def test_data_yaml(write, settings):
    lists = {"train.txt": "data/images/train/x.jpg\n./images/train/none.jpg\n", "val.txt": "images/val/x.jpg\n"}
    root = write({"data.yaml": settings, **LABELS, **PHOTOS, **lists})
    assert by_photo(root, root / "data.yaml") == EXPECTED
    assert by_photo(root, root) == EXPECTED  # the folder
    assert by_photo(root, root, "") == (EXPECTED[0], {f"images/{k}": v for k, v in EXPECTED[1].items()})


def test_label_files_of_photos_that_are_elsewhere(write):
    root = write({"set/data.yaml": "train: images/train\nnames: [dog, cat]", "set/labels/train/x.txt": "0 0 0 1 1"})
    write({"mine/x.jpg": ""})
    assert by_photo(root, root / "set/data.yaml", "mine") == (("dog", "cat"), {"x": (0,)})


def test_label_files_of_sub_folders_that_are_elsewhere(write):
    lists = {"set/train.txt": "data/images/train/p/x.jpg\ndata/images/train/q/x.jpg\n"}
    root = write(
        {"set/data.yaml": "train: train.txt\nnames: [dog, cat]", "set/labels/train/p/x.txt": "0 0 0 1 1", **lists}
    )
    write({"mine/p/x.jpg": "", "mine/q/x.jpg": ""})
    assert by_photo(root, root / "set", "mine")[1] == {"p/x": (0,), "q/x": ()}


def test_classes_txt_beside_the_photos(write):
    root = write({"classes.txt": "dog\ncat\n", "a.txt": "1 .5 .5 .1 .1", "b.txt": "", "a.jpg": "", "b.jpg": ""})
    assert by_photo(root, root, "") == (("dog", "cat"), {"a": (1,), "b": ()})


def test_names_stay_as_they_are_written(write):
    root = write({"data.yaml": "train: images\nnames: [no, on, 1, ~, 1e3]", "labels/a.txt": "0 0 0 1 1"})
    assert read_labels(root).classes == ("no", "on", "1", "~", "1e3")


LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 9}]\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ("names: [dog, dog]\ntrain: images", "data.yaml: names class 'dog' twice"),
        ("names: {0: dog, 2: cat}\ntrain: images", "data.yaml: the numbers of `names` do not go from 0 to 1"),
        ("train: images", "data.yaml: has no `names`"),
        ("names: [[dog]]\ntrain: images", "data.yaml: has no `names`"),
        ("names: [dog]\ntrain: nowhere", "data.yaml: `train` leads to no photos or labels; correct `path`"),
        ("names: [dog]\ntrain: [{a: b}]", "data.yaml: `path` and train, val, test must be text"),
        ("names: [dog]\npath: [a]\ntrain: images", "data.yaml: `path` and train, val, test must be text"),
        ("names: [dog]\ntrain: images", r"labels/x.txt line 1: begins with '1'; class numbers go from 0 to 0"),
        ("- dog", "data.yaml: is no data.yaml of Ultralytics"),
        ("names: [dog", "data.yaml: is not YAML"),
        ("a: " + "[" * 2_000, "data.yaml: is not YAML"),
        (LAUGHS + "names: *a29\ntrain: images", "data.yaml: has no `names`"),
        (
            "names: !!python/object/apply:os.system ['touch PWNED']\ntrain: images",
            "class 'touch PWNED'|labels/x.txt line",
        ),
        ("names: [dog]\ntrain: null", "names no photo; read as yolo"),
    ],
)
def test_errors(write, monkeypatch, settings, reason):
    root = write({"data.yaml": settings, "labels/x.txt": "1 0 0 1 1", "images/x.jpg": ""})
    monkeypatch.chdir(root)
    with pytest.raises(StclError, match=reason) as caught:
        read_labels(root, None, "yolo")
    assert "\n" not in str(caught.value)
    assert not (root / "PWNED").exists()


@pytest.mark.parametrize("index", ["nan", "-1", "1.0", "cat", "2", "²", "9" * 5000])
def test_lines_without_a_class(write, index):
    root = write({"data.yaml": "train: images\nnames: [dog, cat]", "labels/a.txt": f"0 0 0 1 1\n{index} 0 0 1 1\n"})
    with pytest.raises(StclError, match=r"a.txt line 2: begins with '.*'; class numbers go from 0 to 1"):
        read_labels(root)


def test_a_missing_test_split_is_no_mistake(write):
    root = write({"data.yaml": "train: images\ntest: ../test/images\nnames: [dog]", "images/a.jpg": ""})
    assert read_labels(root) == Labels(("dog",), {str(root / "images/a.jpg"): ()})
