"""The chain on a GPU, in float32: what it gives on the CPU. Also run on a GPU that is not there (test_fake_gpu.py)."""

import numpy as np
import pytest
import torch

from stcl_cli.config import CamConfig, PredictConfig, RefineConfig, SegtrainConfig, TrainConfig
from stcl_cli.formats.cams import read_cam
from stcl_cli.formats.masks import read_mask
from stcl_cli.formats.runs import read_jsonl
from stcl_cli.stages import cam, predict, refine, segtrain, train

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
DEVICES = ("cpu", "cuda")
SMALL = {"iterations": 5, "batch_size": 2, "crop_size": 32, "log_every": 1, "amp": "off"}


@pytest.fixture(autouse=True)
def _as_exact_as_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def on_both(stage, make_config, tmp_path, **settings):
    """The output folders of a stage."""
    folders = [tmp_path / f"{stage.__name__}-{device}" for device in DEVICES]
    for device, folder in zip(DEVICES, folders, strict=True):
        assert stage.run(make_config(device=device, output=str(folder), **settings)).skipped == 0
    return folders


def assert_same_losses(folders):
    cpu, cuda = (
        [line["loss"] for line in read_jsonl(folder / "metrics.jsonl") if "loss" in line] for folder in folders
    )
    assert len(cpu) == SMALL["iterations"]
    assert cuda == pytest.approx(cpu, rel=0.02)


def assert_same_masks(folders):
    cpu, cuda = folders
    masks = sorted(cpu.rglob("*.png"))
    assert len(masks) == 3
    for path in masks:
        assert (read_mask(path) == read_mask(cuda / path.relative_to(cpu))).mean() > 0.99


@pytest.mark.parametrize("accumulate", [1, 2])
def test_train(trained, tmp_path, accumulate):
    settings = {"accumulate": accumulate, "checkpointing": accumulate > 1, "w_class": 0.1, "w_seg": 0.1}
    settings |= {"contrast_start": 0.2, "memory_start": 0.4, "segmentation_start": 0.6}
    settings |= {"images": str(trained.photos), "labels": str(trained.root / "labels.csv")}
    settings |= {"backbone": "stcl_tiny", "pretrained": False}
    assert_same_losses(on_both(train, TrainConfig, tmp_path, **settings, **SMALL))


def test_segtrain(trained, tmp_path):
    settings = {
        "images": str(trained.photos),
        "masks": str(trained.root / "truth"),
        "val_masks": str(trained.root / "truth"),
    }
    settings |= {"encoder": "stcl_tiny", "pretrained": False}
    assert_same_losses(on_both(segtrain, SegtrainConfig, tmp_path, **settings, **SMALL))


@pytest.mark.parametrize("labels", ["labels.csv", None])
def test_cam_and_refine(trained, tmp_path, labels):
    photos = {"images": str(trained.photos)}
    settings = {"model": str(trained.run), "affinity": True, "amp": "off"}
    given = {"labels": str(trained.root / labels)} if labels else {"threshold": 0.3}
    cpu, cuda = on_both(cam, CamConfig, tmp_path, **photos, **settings, **given)
    files = sorted(cpu.rglob("*.safetensors"))
    assert len(files) == 3
    for path in files:
        on_cpu, on_cuda = read_cam(path), read_cam(cuda / path.relative_to(cpu))
        assert on_cuda.labels == on_cpu.labels != ()
        np.testing.assert_allclose(on_cuda.cam_KHW, on_cpu.cam_KHW, atol=0.02)
    for method in ("affinity,par,crf", "crf"):
        settings = {"cams": str(cpu), "method": method, "background": (0.3, 0.5)}
        assert_same_masks(on_both(refine, RefineConfig, tmp_path / method, **photos, **settings))


def test_predict(trained, tmp_path):
    settings = {"images": str(trained.photos), "model": str(trained.seg), "amp": "off"}
    assert_same_masks(on_both(predict, PredictConfig, tmp_path, **settings))
