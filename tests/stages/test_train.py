import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import stopped_after
from safetensors.torch import load_file, save_file

from stcl_cli.config import TrainConfig
from stcl_cli.errors import StclError
from stcl_cli.formats.masks import read_mask, write_mask
from stcl_cli.formats.photo_labels import read_photo_labels
from stcl_cli.networks import build_stcl
from stcl_cli.runtime.device import seed_everything
from stcl_cli.stages import train


@pytest.fixture
def config(trained, tmp_path) -> TrainConfig:
    return TrainConfig(
        images=str(trained.photos),
        labels=str(trained.root / "labels.csv"),
        output=str(tmp_path / "run"),
        backbone="stcl_tiny",
        pretrained=False,
        device="cpu",
        iterations=4,
        batch_size=2,
        crop_size=32,
        contrast_start=0.25,
        segmentation_start=0.5,
        w_class=0.5,
        w_seg=0.1,
        save_every=2,
        log_every=1,
    )


@pytest.fixture(scope="module")
def everything_on(trained, tmp_path_factory):
    """A run in which each part takes part, with thresholds that find regions in noise, and what it has learnt."""
    folder = tmp_path_factory.mktemp("everything")
    config = TrainConfig(
        images=str(trained.photos), labels=str(trained.root / "labels.csv"), output=str(folder / "run"),
        backbone="stcl_tiny", pretrained=False, device="cpu", iterations=6, batch_size=2, crop_size=64,
        contrast_start=0.0, memory_start=0.5, segmentation_start=0.5, w_class=0.5, w_seg=0.1, w_memory=0.5,
        beta_high=0.4, beta_low=0.3, memory_slots=2, lr=3e-3,
    )  # fmt: skip
    train.run(config)
    return config, load_file(folder / "run" / "checkpoints" / "last.safetensors")


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_phases_join_one_after_the_other(config, tmp_path):
    assert train.run(replace(config, memory_slots=0)).skipped == 0  # a memory would have the contrast wait for it
    parts = [set(record) & {"cls", "cls_aux", "patch", "class", "seg", "reg"} for record in records(tmp_path / "run")]
    always = {"cls", "cls_aux"}
    assert parts == [always, always | {"patch", "class"}, *[always | {"patch", "class", "seg", "reg"}] * 2]
    assert (tmp_path / "run" / "classes.txt").read_text().split() == ["background", "cat", "dog"]


@pytest.mark.parametrize(
    "changed",
    [
        {}, {"w_patch": 0.0}, {"w_class": 0.0}, {"w_seg": 0.0}, {"w_reg": 0.0}, {"w_memory": 0.0}, {"guidance": 0.0},
        {"top_share": 0.5}, {"weight_decay": 0.5}, {"warmup": 0.5}, {"lr": 1e-3}, {"layer_decay": 0.5}, {"seed": 1},
        {"temperature": 0.1}, {"ema": 0.1}, {"local_crops": 2}, {"local_crop_size": 40}, {"rescale": (1.0, 1.0)},
        {"memory_slots": 1}, {"memory_update": "fifo"}, {"memory_half_life": 5.0}, {"memory_loss": "fixed"},
        {"memory_temperature": 1.0}, {"memory_consolidation": False}, {"cam_scales": (1.0,)},
        {"beta_high": 0.5}, {"beta_low": 0.2}, {"aux_layer": -2}, {"memory_layer": -1}, {"accumulate": 2},
        {"contrast_start": 0.7}, {"memory_start": 0.7}, {"segmentation_start": 0.9}, {"batch_size": 4},
    ],
    ids=lambda changed: next(iter(changed), "nothing"),
)  # fmt: skip
def test_every_option_changes_what_is_learnt(everything_on, tmp_path, changed):
    config, before = everything_on
    train.run(replace(config, output=str(tmp_path / "run"), **changed))
    after = load_file(tmp_path / "run" / "checkpoints" / "last.safetensors")
    same = before.keys() == after.keys() and all(torch.equal(value, after[name]) for name, value in before.items())
    assert same == (not changed)


@pytest.mark.parametrize(("side", "fits"), [(8, False), (24, False), (32, True), (48, True), (64, False)])
def test_a_local_crop_has_four_patches_a_side_and_is_no_larger_than_the_crop(config, tmp_path, side, fits):
    config = replace(config, iterations=1, crop_size=48, local_crop_size=side)
    if fits:
        train.run(config)
    else:
        with pytest.raises(StclError, match=rf"--local-crop-size {side}: give 32 to 48, which are 4 patches and the -"):
            train.run(config)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("pretrained", "given", "decay"), [(True, None, 0.75), (True, 0.5, 0.5), (False, None, 1.0)])
def test_pretrained_blocks_learn_the_slower_the_earlier_they_are(config, tmp_path, pretrained, given, decay):
    seed_everything(config.seed, 0)
    before = build_stcl(config, 2).backbone.vit.state_dict()
    save_file(before, tmp_path / "vit.safetensors")
    config = replace(config, weights=str(tmp_path / "vit.safetensors") if pretrained else None, layer_decay=given)
    train.run(replace(config, iterations=1, lr=1e-4, warmup=0.0, weight_decay=0.0, memory_slots=0))
    after = load_file(tmp_path / "run" / "checkpoints" / "last.safetensors")
    step = {  # AdamW's first step is the learning rate, whatever the gradient
        name: float((after[f"model.backbone.vit.{name}"] - value).abs().max()) for name, value in before.items()
    }
    depth = 1 + max(int(name.split(".")[1]) for name in before if name.startswith("blocks."))
    for block in range(depth):
        assert step[f"blocks.{block}.mlp.fc1.weight"] == pytest.approx(1e-4 * decay ** (depth - 1 - block), rel=0.01)
    assert step["pos_embed"] == pytest.approx(1e-4 * decay**depth, rel=0.01)


def test_labels_of_nothing(config, tmp_path):
    (tmp_path / "labels.csv").write_text("image,cat\na,0\nbär 01,0\n")
    with pytest.raises(StclError, match=r"labels\.csv: says of no photo that it shows a class: there is nothing to"):
        train.run(replace(config, labels=str(tmp_path / "labels.csv")))
    assert not (tmp_path / "run").exists()


def test_a_training_goes_on_without_the_weights_it_started_from(config, tmp_path):
    save_file(build_stcl(config, 2).backbone.vit.state_dict(), tmp_path / "vit.safetensors")
    config = replace(config, weights=str(tmp_path / "vit.safetensors"), save_every=1)
    train.run(config)
    whole = load_file(tmp_path / "run" / "checkpoints" / "last.safetensors")
    with stopped_after(2, train):
        train.run(replace(config, overwrite=True))
    (tmp_path / "vit.safetensors").unlink()
    train.run(replace(config, resume=True))
    resumed = load_file(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert all(whole[name].equal(resumed[name]) for name in whole)
    with pytest.raises(StclError, match=r"vit\.safetensors"):
        train.run(replace(config, overwrite=True))


def test_switched_off_parts_are_not_computed(config, tmp_path):
    train.run(replace(config, w_patch=0.0, w_class=0.0, w_seg=0.0, iterations=3))
    assert not {"patch", "class", "seg", "reg"} & set(records(tmp_path / "run")[-1])


def test_resumed_run_ends_with_the_same_weights(config, tmp_path, monkeypatch):
    train.run(config)

    class Killed(Exception):
        pass

    batches = train.training_batches

    def stopping(*arguments):
        def some(first, last):
            for number, batch in enumerate(batches(*arguments)(first, last), first):
                if number == 3:
                    raise Killed
                yield batch

        return some

    other = replace(config, output=str(tmp_path / "other"))
    with monkeypatch.context() as patch:
        patch.setattr(train, "training_batches", stopping)
        with pytest.raises(Killed):
            train.run(other)
    train.run(replace(other, resume=True))
    whole, resumed = (load_file(tmp_path / name / "checkpoints" / "last.safetensors") for name in ("run", "other"))
    assert whole.keys() == resumed.keys()
    assert all(whole[name].equal(resumed[name]) for name in whole)


def test_measuring_changes_nothing_and_keeps_the_best(config, trained, tmp_path):
    train.run(config)
    measured = replace(config, output=str(tmp_path / "measured"), val_masks=str(trained.root / "truth"), val_every=2)
    train.run(measured)
    lines = [r for r in records(tmp_path / "measured") if "val_miou" in r]
    assert len(lines) == 2
    assert all(0 <= r["val_miou"] <= r["val_best_miou"] <= 1 and 0 < r["val_background"] < 1 for r in lines)
    assert (tmp_path / "measured" / "checkpoints" / "best.safetensors").is_file()
    plain, other = (load_file(tmp_path / name / "checkpoints" / "last.safetensors") for name in ("run", "measured"))
    assert all(plain[name].equal(other[name]) for name in plain)


def test_it_measures_with_true_masks_whose_classes_are_in_another_order(config, trained, tmp_path):
    swapped = np.arange(256, dtype=np.uint8)
    swapped[[1, 2]] = 2, 1
    for name in ("a", "sub dir/bär 01", "sub dir/c.v1"):
        write_mask(tmp_path / "truth" / f"{name}.png", swapped[read_mask(trained.root / "truth" / f"{name}.png")])
    (tmp_path / "truth" / "classes.txt").write_text("dog\ncat\n")
    measured = []
    for number, truth in enumerate((trained.root / "truth", tmp_path / "truth")):
        train.run(replace(config, output=str(tmp_path / f"{number}"), iterations=1, val_masks=str(truth)))
        measured.append([record["val_miou"] for record in records(tmp_path / f"{number}") if "val_miou" in record])
    assert measured[0] == measured[1] != []


def test_it_measures_on_photos_that_it_does_not_train_on(config, trained, tmp_path):
    (tmp_path / "train.txt").write_text("a\nsub dir/bär 01\n")
    (tmp_path / "val.txt").write_text("sub dir/c.v1\n")
    lists = {"list": str(tmp_path / "train.txt"), "val_list": str(tmp_path / "val.txt")}
    train.run(replace(config, iterations=2, val_masks=str(trained.root / "truth"), **lists))
    assert all(0 < line["val_miou"] < 1 for line in records(tmp_path / "run") if "val_miou" in line)
    assert (tmp_path / "run" / "checkpoints" / "best.safetensors").is_file()
    assert list(read_photo_labels(tmp_path / "run")) == ["a", "sub dir/bär 01"]


def test_a_training_goes_on_with_its_own_photos_alone(config, trained, tmp_path):
    shutil.copytree(trained.photos, tmp_path / "photos")
    shutil.copy(trained.root / "labels.csv", tmp_path / "labels.csv")
    config = replace(config, images=str(tmp_path / "photos"), labels=str(tmp_path / "labels.csv"))
    with stopped_after(2, train):
        train.run(config)
    names = list(read_photo_labels(tmp_path / "run"))
    shutil.copy(tmp_path / "photos" / "a.jpg", tmp_path / "photos" / "0.jpg")
    with (tmp_path / "labels.csv").open("a") as file:
        file.write("0,cat\n")
    with pytest.raises(
        StclError, match=r"run: was begun with other photos to learn from \(3, now 4\); go on with those"
    ):
        train.run(replace(config, resume=True))
    (tmp_path / "photos" / "0.jpg").unlink()
    train.run(replace(config, resume=True))
    shutil.copy(tmp_path / "photos" / "a.jpg", tmp_path / "photos" / "0.jpg")
    train.run(replace(config, resume=True))  # has ended, and stays as it is
    assert list(read_photo_labels(tmp_path / "run")) == names == ["a", "sub dir/bär 01", "sub dir/c.v1"]


@pytest.mark.parametrize("seed", range(3))
def test_a_bad_photo_that_was_not_drawn_is_named_by_the_memory_that_looks_at_all(config, trained, tmp_path, seed):
    shutil.copytree(trained.photos, tmp_path / "photos")
    (tmp_path / "photos" / "zero.jpg").touch()
    text = (trained.root / "labels.csv").read_text()
    (tmp_path / "labels.csv").write_text(f"{text}zero,cat\n")
    changed = replace(config, images=str(tmp_path / "photos"), labels=str(tmp_path / "labels.csv"))
    assert train.run(replace(changed, iterations=1, batch_size=1, seed=seed)).skipped == 1
    (record,) = [json.loads(line) for line in (tmp_path / "run" / "failed.jsonl").read_text().splitlines()]
    assert record["image"] == "zero"
    assert "zero.jpg: is empty" in record["reason"]


def test_a_folder_in_use_is_refused_before_weights_are_downloaded(config, tmp_path):
    train.run(replace(config, iterations=1))
    with pytest.raises(StclError, match="run: is not empty; give --resume"):
        train.run(replace(config, pretrained=True))


def test_a_bad_photo_is_skipped_and_named(config, trained, tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes((trained.photos / "a.jpg").read_bytes())
    (tmp_path / "photos" / "b.jpg").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("image,labels\na,cat\nb,dog\ngone,dog\n")
    changed = replace(config, images=str(tmp_path / "photos"), labels=str(tmp_path / "labels.csv"))
    assert train.run(changed).skipped == 2
    failed = [json.loads(line) for line in (tmp_path / "run" / "failed.jsonl").read_text().splitlines()]
    assert {record["image"] for record in failed} == {"b", "gone"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"crop_size": 40}, "--crop-size 40"),
        ({"beta_low": 0.8}, "--beta-low 0.8: lies above --beta-high 0.7"),
        ({"rescale": (2.0, 0.5)}, "--rescale 2 0.5"),
        ({"val_masks": "tests"}, "tests: holds no mask"),
        ({"device": "cuda:99"}, "--device cuda:99"),
        ({"backbone": "resnet18"}, "resnet18"),
        ({"weights": "pyproject.toml"}, "safetensors"),
        ({"labels": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_one_line_names_what_is_wrong_and_nothing_is_written(config, tmp_path, change, words):
    with pytest.raises(StclError, match=words) as caught:
        train.run(replace(config, **change))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
