"""Measuring in training where memory is too small; the figures themselves are tested with the stages."""

import shutil

import numpy as np
import pytest
import torch

from stcl_cli.config import SegtrainConfig, TrainConfig
from stcl_cli.data import photo_masks
from stcl_cli.data.labels import read_labels
from stcl_cli.data.photos import list_photos
from stcl_cli.errors import StclError
from stcl_cli.formats.masks import read_mask, write_mask
from stcl_cli.networks import load_segmenter, load_stcl
from stcl_cli.runtime.device import make_runtime
from stcl_cli.training import validation


@pytest.mark.parametrize("what", ["photo_cams", "label_maps", "photo_scores", "best_labels"])
def test_a_photo_that_there_is_too_little_memory_for_is_skipped_and_named(trained, monkeypatch, what):
    photos = list_photos(str(trained.photos)).photos
    given = {"images": str(trained.photos), "output": "", "val_masks": str(trained.root / "truth")}
    runtime, classes = make_runtime("cpu"), ("cat", "dog")
    if what in ("photo_cams", "label_maps"):
        config = TrainConfig(labels="", cam_scales=(1.0,), **given)
        table = read_labels(str(trained.root / "labels.csv"), classes)
        measure = validation.cam_validation(load_stcl(trained.run)[0], config, runtime, classes, table)
    else:
        config = SegtrainConfig(masks="", **given)
        measure = validation.segmentation_validation(load_segmenter(trained.seg)[0], config, runtime, classes)
    compute, asked = getattr(validation, what), []

    def full(*inputs, **options):
        asked.append(inputs)
        if len(asked) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return compute(*inputs, **options)

    monkeypatch.setattr(validation, what, full)
    measured = measure(lambda text: None)
    assert len(asked) == 3
    ((name, reason),) = measured["skipped"]
    assert name == photos[1].name
    assert "too little memory" in reason
    assert 0 <= measured["miou"] <= 1


def measuring(trained, folder, rows):
    """mIoU of CAMs by labels of these rows, on the photo c.v1."""
    (folder / "val.txt").write_text("sub dir/c.v1\n")
    (folder / "labels.csv").write_text(f"image,labels\na,cat;dog\n{rows}")
    given = {"images": str(trained.photos), "output": "", "val_masks": str(trained.root / "truth")}
    config = TrainConfig(labels="labels.csv", cam_scales=(1.0,), val_list=str(folder / "val.txt"), **given)
    table = read_labels(str(folder / "labels.csv"), ("cat", "dog"))
    model = load_stcl(trained.run)[0]
    return validation.cam_validation(model, config, make_runtime("cpu"), ("cat", "dog"), table)(lambda text: None)


@pytest.mark.parametrize("shown", ["cat", "cat;dog", ""])
def test_photos_that_are_not_trained_on_and_show_any_number_of_classes(trained, tmp_path, shown):
    measured = measuring(trained, tmp_path, f"sub dir/c.v1,{shown}\n")
    assert 0 < measured["miou"] < 1
    assert measured["skipped"] == []


def test_a_list_to_measure_on_needs_masks():
    config = TrainConfig(images="", labels="", output="", val_list="val.txt")
    with pytest.raises(StclError, match=r"--val-list val\.txt: give the true masks too"):
        validation.cam_validation(None, config, make_runtime("cpu"), ("cat",), None)


def test_no_photo_to_measure_on_has_a_label(trained, tmp_path):
    with pytest.raises(StclError, match=r"labels.csv: has labels of none of the photos to measure on"):
        measuring(trained, tmp_path, "")


def test_true_masks_may_end_in_capitals_and_lie_a_folder_deeper(trained, tmp_path):
    for path in (trained.root / "truth").rglob("*.png"):
        copy = tmp_path / "truth" / "photos" / path.relative_to(trained.root / "truth").with_suffix(".PNG")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    config = SegtrainConfig(masks="", images=str(trained.photos), output="", val_masks=str(tmp_path / "truth"))
    masks, missing = validation._photos_with_masks(config)
    assert len(masks) == len(list_photos(str(trained.photos)).photos)
    assert missing == []


def test_what_is_listed_and_cannot_be_measured_on_is_named(trained, tmp_path):
    """Else the figure that picks the best checkpoint comes from fewer photos than were asked for, without a word."""
    shutil.copytree(trained.root / "truth", tmp_path / "truth")
    (tmp_path / "truth" / "a.png").unlink()
    (tmp_path / "val.txt").write_text("a\ngone\nsub dir/c.v1\nsub dir/bär 01\n")
    (tmp_path / "labels.csv").write_text("sub dir/c.v1,cat\n")
    given = {"images": str(trained.photos), "output": "", "val_masks": str(tmp_path / "truth")}
    given["val_list"] = str(tmp_path / "val.txt")
    runtime, classes, missing = make_runtime("cpu"), ("cat", "dog"), ["gone", "a"]
    table = read_labels(str(tmp_path / "labels.csv"), classes)
    config = TrainConfig(labels="labels.csv", cam_scales=(1.0,), **given)
    of_cams = validation.cam_validation(load_stcl(trained.run)[0], config, runtime, classes, table)
    config = SegtrainConfig(masks="", **given)
    of_masks = validation.segmentation_validation(load_segmenter(trained.seg)[0], config, runtime, classes)
    for measure, names in ((of_cams, [*missing, "sub dir/bär 01"]), (of_masks, missing)):
        for _ in range(2):
            skipped = measure(lambda text: None)["skipped"]
            assert [name for name, _ in skipped] == names
    assert dict(skipped)["a"] == f"no mask in {tmp_path / 'truth'}"


def blank(trained, folder):
    """True masks as other tools write them: 255 for what is shown."""
    for path in (trained.root / "truth").rglob("*.png"):
        copy = folder / "truth" / path.relative_to(trained.root / "truth")
        write_mask(copy, np.where(read_mask(path) > 0, 255, 0).astype(np.uint8))
    return str(folder / "truth")


@pytest.mark.parametrize("stage", ["train", "segtrain"])
def test_true_masks_without_a_class_are_refused(trained, tmp_path, monkeypatch, stage):
    given = {"images": str(trained.photos), "output": "", "val_masks": blank(trained, tmp_path)}
    runtime, classes = make_runtime("cpu"), ("cat", "dog")

    def validate():
        if stage == "segtrain":
            config = SegtrainConfig(masks="", **given)
            return validation.segmentation_validation(load_segmenter(trained.seg)[0], config, runtime, classes)
        table = read_labels(str(trained.root / "labels.csv"), classes)
        config = TrainConfig(labels="", cam_scales=(1.0,), **given)
        return validation.cam_validation(load_stcl(trained.run)[0], config, runtime, classes, table)

    for sample in (32, 2):  # of many masks a sample is not all
        monkeypatch.setattr(photo_masks, "SAMPLE", sample)
        with pytest.raises(StclError, match=r"truth: no class in its masks; classes have the values 1"):
            validate()


def test_cams_are_measured_as_they_are_exported(trained, monkeypatch):
    """Guided by the memory as far as the run says."""
    given = {"images": str(trained.photos), "output": "", "val_masks": str(trained.root / "truth")}
    config = TrainConfig(labels="", cam_scales=(1.0,), guidance=0.3, **given)
    table = read_labels(str(trained.root / "labels.csv"), ("cat", "dog"))
    model, shares = load_stcl(trained.run)[0], []
    compute = validation.label_maps
    monkeypatch.setattr(validation, "label_maps", lambda *given: shares.append(given[3]) or compute(*given))
    validation.cam_validation(model, config, make_runtime("cpu"), ("cat", "dog"), table)(lambda text: None)
    assert set(shares) == {0.3}
