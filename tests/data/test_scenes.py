import csv
from functools import cache

import numpy as np
import pytest
from PIL import Image

from stcl_cli.data.scene_parts import CLASSES
from stcl_cli.data.scenes import SCENE_CLASSES, draw_scene, write_scenes
from stcl_cli.errors import StclError
from stcl_cli.evaluation.metrics import confusion_matrix, mean_iou
from stcl_cli.formats.masks import read_mask

CLASS_COUNT = len(SCENE_CLASSES)


@cache
def scenes(count, split=0):
    return [draw_scene(np.random.default_rng((7, split, i)), 48) for i in range(count)]


def test_labels_are_the_classes_in_the_mask():
    for photo, mask, labels in scenes(120):
        assert photo.shape == (48, 48, 3)
        assert photo.dtype == mask.dtype == np.uint8
        assert mask.shape == (48, 48)
        assert labels == tuple(SCENE_CLASSES[k - 1] for k in np.unique(mask) if k)


def test_a_scene_depends_on_nothing_but_its_generator():
    first, second = (draw_scene(np.random.default_rng(3), 40) for _ in range(2))
    other = draw_scene(np.random.default_rng(4), 40)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert not np.array_equal(first[0], other[0])


def test_scenes_show_every_class_often_and_many_show_several():
    labels = [labels for _, _, labels in scenes(120)]
    assert all(np.mean([name in shown for shown in labels]) > 0.15 for name in SCENE_CLASSES)
    assert np.mean([len(shown) > 1 for shown in labels]) > 0.4
    assert 0.1 < np.mean([(mask > 0).mean() for _, mask, _ in scenes(120)]) < 0.4


def test_a_class_is_met_at_home_more_often_than_elsewhere(monkeypatch):
    places = []
    recorders = {name: lambda *canvas, name=name: places.append(name) for name in CLASSES}
    monkeypatch.setattr(
        "stcl_cli.data.scenes.CLASSES", {name: kind._replace(home=recorders[name]) for name, kind in CLASSES.items()}
    )
    shown = [labels for _, _, labels in (draw_scene(np.random.default_rng(i), 24) for i in range(240))]
    for name in SCENE_CLASSES:
        at_home = np.mean([name in labels for labels, place in zip(shown, places, strict=True) if place == name])
        elsewhere = np.mean([name in labels for labels, place in zip(shown, places, strict=True) if place != name])
        assert at_home > 1.6 * elsewhere
        assert elsewhere > 0.05


def colour_miou(train, held_out, bits=4):
    """Held-out mIoU of a pixel classifier that is given the true masks of training scenes, and sees colour only.

    Each colour (4 bits a channel) takes the class it most often has, where classes count by how rare they are.
    """

    def code(photo):
        r, g, b = np.moveaxis(photo >> (8 - bits), -1, 0).astype(np.int64)
        return (r << 2 * bits) + (g << bits) + b

    counts = np.zeros((CLASS_COUNT + 1, 1 << 3 * bits))
    for photo, mask, _ in train:
        np.add.at(counts, (mask, code(photo)), 1)
    best = (counts / counts.sum(1, keepdims=True)).argmax(0).astype(np.uint8)
    matrix = sum(confusion_matrix(mask, best[code(photo)], CLASS_COUNT + 1) for photo, mask, _ in held_out)
    return mean_iou(matrix)


def test_colour_does_not_give_the_class_away():
    train, held_out = scenes(120), scenes(40, split=1)
    assert colour_miou(train, held_out) < 0.2
    # The same classifier reads scenes whose classes do have a colour: it is no straw man.
    painted = [
        [(np.where(mask[..., None] > 0, 40 * mask[..., None], photo), mask, labels) for photo, mask, labels in part]
        for part in (train, held_out)
    ]
    assert colour_miou(*painted) > 0.6


def test_write_scenes_leaves_what_a_user_would_bring(tmp_path):
    write_scenes(tmp_path, train=5, held_out=3, size=48, seed=1)
    names = {part: (tmp_path / f"{part}.txt").read_text().split() for part in ("train", "held_out")}
    assert [len(part) for part in names.values()] == [5, 3]
    assert (tmp_path / "classes.txt").read_text().split() == list(SCENE_CLASSES)
    with (tmp_path / "labels.csv").open(newline="") as file:
        labels = {row["image"]: tuple(row["labels"].split(";")) for row in csv.DictReader(file)}
    assert sorted(labels) == sorted(path.name for path in (tmp_path / "photos").iterdir())
    # The truth of held-out scenes only, and it agrees with their labels.
    assert sorted(path.stem for path in (tmp_path / "truth").iterdir()) == names["held_out"]
    for name in names["held_out"]:
        mask = read_mask(tmp_path / "truth" / f"{name}.png")
        assert labels[f"{name}.jpg"] == tuple(SCENE_CLASSES[k - 1] for k in np.unique(mask) if k)
        assert Image.open(tmp_path / "photos" / f"{name}.jpg").size == mask.shape[::-1]


def test_the_seed_fixes_the_set_and_more_scenes_leave_the_first_ones_as_they_are(tmp_path):
    for folder, train, seed in (("a", 2, 0), ("b", 3, 0), ("c", 2, 1)):
        write_scenes(tmp_path / folder, train=train, held_out=1, size=32, seed=seed)
    for name in ("train_0001", "held_out_0000"):
        a, b, c = ((tmp_path / folder / "photos" / f"{name}.jpg").read_bytes() for folder in "abc")
        assert a == b
        assert a != c


def test_a_scene_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "photos").touch()
    with pytest.raises(StclError, match=r"train_0000.jpg: cannot be written"):
        write_scenes(tmp_path, train=1, held_out=0, size=48)
