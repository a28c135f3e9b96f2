"""cam, refine, segtrain, eval and demo: stages that are tested by what they hand on."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from stcl_cli.config import CamConfig, DemoConfig, EvalConfig, RefineConfig, SegtrainConfig
from stcl_cli.errors import StclError
from stcl_cli.formats.cams import CamFile, read_cam, write_cam
from stcl_cli.formats.masks import read_mask, write_mask
from stcl_cli.stages import cam, demo, evaluate, refine, segtrain

NAMES = ("a", "sub dir/bär 01", "sub dir/c.v1")


@pytest.fixture(scope="module")
def cams(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cams") / "cams"
    labels = folder.parent / "labels.csv"
    labels.write_text("image,labels\na,dog\nsub dir/bär 01,cat;dog\n")
    result = cam.run(
        CamConfig(
            images=str(trained.photos), model=str(trained.run), labels=str(labels), output=str(folder), device="cpu"
        )
    )
    assert result.skipped == 1  # c.v1 has no label
    return folder


def refined(trained, cams, folder, **settings):
    settings = {"method": "none", "background": (0.4,), "device": "cpu", "workers": 1} | settings
    return refine.run(RefineConfig(cams=str(cams), images=str(trained.photos), output=str(folder), **settings))


def test_cams_of_the_given_labels_only(cams):
    one, two = (read_cam(cams / f"{name}.safetensors") for name in NAMES[:2])
    assert (one.labels, two.labels) == ((1,), (0, 1))
    assert (one.source, one.size, one.cam_KHW.shape) == ("given", (40, 56), (1, 10, 14))
    assert not (cams / f"{NAMES[2]}.safetensors").exists()


def test_cams_of_predicted_labels_say_so(trained, tmp_path):
    config = CamConfig(images=str(trained.photos), model=str(trained.run), output=str(tmp_path / "c"), device="cpu")
    cam.run(config)
    for name in NAMES:
        file = read_cam(tmp_path / "c" / f"{name}.safetensors")
        assert file.source == "predicted"
        assert all(score >= config.threshold for score in file.scores)


@pytest.mark.parametrize("method", ["none", "par", "crf"])
def test_masks_hold_the_labels_and_follow_the_cam(trained, tmp_path, method):
    """A photo that is red where the CAM is high: whatever the method, that part becomes the class."""
    pixels = np.zeros((40, 56, 3), np.uint8)
    pixels[:, 28:, 0] = 220
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos" / "x.png")
    map_HW = np.where(np.arange(56) >= 28, 0.9, 0.1).astype(np.float32)[None].repeat(40, 0)
    write_cam(tmp_path / "cams" / "x.safetensors", CamFile(("cat", "dog"), (1,), map_HW[None], (40, 56)))
    (tmp_path / "cams" / "classes.txt").write_text("background\ncat\ndog\n")
    config = RefineConfig(
        cams=str(tmp_path / "cams"), images=str(tmp_path / "photos"), output=str(tmp_path / "masks"), method=method,
        background=(0.4,), device="cpu", workers=1,
    )  # fmt: skip
    assert refine.run(config).skipped == 0
    mask = read_mask(tmp_path / "masks" / "x.png")
    assert set(np.unique(mask)) == {0, 2}
    assert (mask[:, :24] == 0).all()
    assert (mask[:, 32:] == 2).all()


def test_between_two_background_scores_is_ignored(trained, cams, tmp_path):
    for name, background in {"low": (0.3,), "high": (0.6,), "both": (0.3, 0.6)}.items():
        refined(trained, cams, tmp_path / name, background=background)
    for name in NAMES[:2]:
        low, high, both = (read_mask(tmp_path / way / f"{name}.png") for way in ("low", "high", "both"))
        assert (both[low == 0] == 0).all()
        assert (both[high > 0] == high[high > 0]).all()
        assert (both[(low > 0) & (high == 0)] == 255).all()


def test_masks_do_not_depend_on_the_number_of_processes(trained, cams, tmp_path):
    for workers in (1, 2):
        refined(trained, cams, tmp_path / str(workers), workers=workers, method="crf")
    for name in NAMES[:2]:
        one, two = ((tmp_path / str(workers) / f"{name}.png").read_bytes() for workers in (1, 2))
        assert one == two


def test_a_damaged_cam_is_skipped(trained, cams, tmp_path):
    damaged = tmp_path / "cams"
    (damaged / "sub dir").mkdir(parents=True)
    for name in ("classes.txt", "a.safetensors"):
        (damaged / name).write_bytes((cams / name).read_bytes())
    (damaged / "sub dir" / "bär 01.safetensors").write_bytes(b"half a file")
    result = refined(trained, damaged, tmp_path / "masks")
    assert result.skipped == 1
    failed = [json.loads(line) for line in (tmp_path / "masks" / "failed.jsonl").read_text().splitlines()]
    assert [record["image"] for record in failed] == ["sub dir/bär 01"]


def test_segtrain_starts_from_the_backbone_of_a_run(trained, tmp_path):
    config = SegtrainConfig(
        images=str(trained.photos), masks=str(trained.root / "truth"), output=str(tmp_path / "seg"),
        init=str(trained.run),
        device="cpu", iterations=1, batch_size=1, crop_size=32, lr=1e-12, warmup=0.0,
    )  # fmt: skip
    segtrain.run(config)
    before = load_file(trained.run / "checkpoints" / "last.safetensors")
    after = load_file(tmp_path / "seg" / "checkpoints" / "last.safetensors")
    name = "blocks.0.attn.qkv.weight"
    assert after[f"model.encoder.vit.{name}"].allclose(before[f"model.backbone.vit.{name}"], atol=1e-6)


def test_a_mask_of_another_size_is_skipped(trained, tmp_path):
    for name in NAMES:
        mask = read_mask(trained.root / "truth" / f"{name}.png")
        write_mask(tmp_path / "masks" / f"{name}.png", mask[:20] if name == "a" else mask)
    (tmp_path / "masks" / "classes.txt").write_text("cat\ndog\n")
    config = SegtrainConfig(
        images=str(trained.photos), masks=str(tmp_path / "masks"), output=str(tmp_path / "seg"), encoder="stcl_tiny",
        pretrained=False, device="cpu", iterations=3, batch_size=1, crop_size=32,
    )  # fmt: skip
    assert segtrain.run(config).skipped == 1


def test_eval_counts_ignored_predictions_as_errors_unless_told(tmp_path):
    truth = np.array([[0, 0, 1, 1], [2, 2, 255, 1]], np.uint8)
    predicted = np.array([[0, 255, 1, 1], [2, 1, 0, 1]], np.uint8)
    write_mask(tmp_path / "truth" / "x.png", truth)
    write_mask(tmp_path / "pred" / "x.png", predicted)
    (tmp_path / "truth" / "classes.txt").write_text("background\ncat\ndog\n")
    config = EvalConfig(predictions=str(tmp_path / "pred"), truth=str(tmp_path / "truth"))
    summary = evaluate.run(config).summary
    assert summary["per_class"] == pytest.approx({"background": 1 / 2, "cat": 3 / 4, "dog": 1 / 2})
    assert summary["miou"] == pytest.approx(7 / 12)
    assert (summary["images"], summary["ignored_predictions"]) == (1, 1)
    forgiving = EvalConfig(predictions=config.predictions, truth=config.truth, ignore_predictions=True)
    assert evaluate.run(forgiving).summary["per_class"]["background"] == 1


@pytest.mark.parametrize("forgiving", [False, True])
def test_a_value_that_is_no_class_is_an_error_in_any_case(tmp_path, capsys, forgiving):
    write_mask(tmp_path / "truth" / "x.png", np.array([[0, 0, 1, 1, 2, 2, 255]], np.uint8))
    write_mask(tmp_path / "pred" / "x.png", np.array([[0, 0, 1, 9, 2, 9, 9]], np.uint8))
    (tmp_path / "truth" / "classes.txt").write_text("background\ncat\ndog\n")
    config = EvalConfig(predictions=str(tmp_path / "pred"), truth=str(tmp_path / "truth"), ignore_predictions=forgiving)
    summary = evaluate.run(config).summary
    assert summary["miou"] == pytest.approx(2 / 3)
    assert (summary["ignored_predictions"], summary["unknown_predictions"]) == (0, 2)
    assert "a value that is no class: 2" in capsys.readouterr().err


def test_eval_compares_classes_by_their_names(tmp_path, capsys):
    write_mask(tmp_path / "truth" / "x.png", np.array([[0, 1, 1, 2], [3, 3, 3, 3]], np.uint8))
    write_mask(tmp_path / "pred" / "x.png", np.array([[0, 3, 3, 0], [1, 1, 1, 0]], np.uint8))
    (tmp_path / "truth" / "classes.txt").write_text("background\ndog\nemu\ncat\n")
    (tmp_path / "pred" / "classes.txt").write_text("background\ncat\ncow\ndog\n")
    config = EvalConfig(predictions=str(tmp_path / "pred"), truth=str(tmp_path / "truth"))
    summary = evaluate.run(config).summary
    assert summary["per_class"] == {"background": 1 / 3, "cat": 3 / 4, "cow": None, "dog": 1.0, "emu": 0.0}
    assert (
        "truth: its classes are in another order, or others; they are compared by their names"
        in capsys.readouterr().err
    )
    names = str(tmp_path / "pred" / "classes.txt")
    both = EvalConfig(predictions=config.predictions, truth=config.truth, classes=names)
    assert evaluate.run(both).summary["per_class"]["dog"] == 0  # --classes names the values of both


def test_eval_finds_the_best_background_of_cams(cams, trained):
    summary = evaluate.run(EvalConfig(predictions=str(cams), truth=str(trained.root / "truth"))).summary
    assert summary["images"] == 2
    assert 0 < summary["best_background"] < 1


def test_eval_without_a_common_name(tmp_path):
    write_mask(tmp_path / "truth" / "x.png", np.zeros((2, 2), np.uint8))
    write_mask(tmp_path / "pred" / "y.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(StclError, match="pred"):
        evaluate.run(EvalConfig(predictions=str(tmp_path / "pred"), truth=str(tmp_path / "truth")))


def test_demo_runs_the_whole_chain(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "SCENES", {"train": 6, "held_out": 2, "size": 48})
    monkeypatch.setattr(demo, "TRAINING", {"iterations": 2, "batch_size": 2, "crop_size": 48})
    monkeypatch.setattr(demo, "SECOND_STAGE", {"iterations": 2, "batch_size": 2, "crop_size": 48})
    result = demo.run(DemoConfig(output=str(tmp_path / "demo")))
    assert set(result.summary) == {"cams_miou", "masks_miou", "predictions_miou", "seconds"}
    assert (tmp_path / "demo" / "overview.png").is_file()
    assert len(list((tmp_path / "demo" / "pictures").iterdir())) == 2
