"""Every stage on a GPU that is only pretended: no tensor is left on the CPU, and the results are the CPU's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pretended_cuda import OnCuda, pretended
from safetensors.numpy import load_file

import stcl_cli.cams
from stcl_cli.config import CamConfig, PredictConfig, RefineConfig, SegtrainConfig, TrainConfig
from stcl_cli.formats.cams import read_cam
from stcl_cli.formats.masks import read_mask
from stcl_cli.formats.runs import read_jsonl
from stcl_cli.stages import cam, predict, refine, segtrain, train
from stcl_models import memory_bank

pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument")
TRAINING = {
    "pretrained": False, "amp": "off", "workers": 0, "batch_size": 2, "crop_size": 32, "iterations": 3, "log_every": 1,
}  # fmt: skip


def on_both(trained, tmp_path, stage, config_class, **options):
    """The output folders of a stage on the CPU and on the pretended GPU."""
    folders = []
    for device in ("cpu", "cuda"):
        folders.append(tmp_path / f"{stage.__name__}-{device}")
        config = config_class(images=str(trained.photos), output=str(folders[-1]), device=device, **options)
        if device == "cpu":
            stage.run(config)
            continue
        with pretended():
            stage.run(config)
    return folders


@pytest.mark.parametrize(
    "bad",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
        lambda x: x.gather(0, torch.zeros(1, dtype=torch.long)),
        lambda x: torch.where(x > 0, x, torch.zeros(3)),
        lambda x: x.scatter_(0, torch.zeros(1, dtype=torch.long, device="cuda"), torch.ones(1)),
        lambda x: torch.ones(3)[x.long()],
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
    ],
)
def test_what_cuda_refuses_the_pretended_gpu_refuses(bad):
    with pretended():
        x = torch.ones(3, device="cuda")
        assert (x * 2 + torch.tensor(1.0)).device.type == "cuda"
        with pytest.raises((RuntimeError, TypeError), match="cuda"):
            bad(x)


def test_gradients_and_optimisers_work_on_it():
    with pretended():
        layer = torch.nn.Linear(2, 1).to("cuda")
        assert isinstance(layer.weight, OnCuda)
        before = layer.weight.tolist()
        layer(torch.ones(1, 2, device="cuda")).sum().backward()
        torch.optim.AdamW(layer.parameters(), fused=True).step()
        assert layer.weight.grad.tolist() == [[1, 1]]
        assert layer.weight.tolist() != before


def test_train_to_its_end_with_all_losses_and_again_from_its_checkpoint(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(memory_bank, "DOUBTED", 0.0)  # also what so fresh a network remembers guides and pulls
    options = {
        "labels": str(trained.root / "labels.csv"),
        "backbone": "stcl_tiny",
        "val_masks": str(trained.root / "truth"),
        "w_class": 0.5,
        "w_seg": 0.1,
    }
    options |= {"contrast_start": 0.0, "memory_start": 0.3, "segmentation_start": 0.3, "save_every": 1, "val_every": 2}
    options |= TRAINING
    folders = on_both(trained, tmp_path, train, TrainConfig, **options)
    cpu, cuda = (read_jsonl(folder / "metrics.jsonl") for folder in folders)
    assert {"patch", "class", "memory", "seg", "reg", "val_miou", "memory_fill"} <= {
        key for line in cuda for key in line
    }
    assert max(line.get("memory", 0) for line in cpu) > 0
    for mine, other in zip(cpu, cuda, strict=True):
        timeless = [{k: v for k, v in line.items() if k != "photos_per_second"} for line in (mine, other)]
        assert timeless[0] == pytest.approx(timeless[1], rel=1e-3, abs=1e-5)
    tensors = [load_file(folder / "checkpoints" / "last.safetensors") for folder in folders]
    for name in tensors[0]:
        assert np.allclose(tensors[0][name], tensors[1][name], atol=1e-3), name
    with pretended():  # takes the optimiser's state to the GPU
        train.run(
            TrainConfig(images=str(trained.photos), output=str(folders[1]), device="cuda", resume=True, **options)
        )


def test_how_often_a_training_waits_for_the_gpu(trained, tmp_path):
    """For numbers it must know: anchors, classes read, and in the memory entries and classes."""
    options = {"labels": str(trained.root / "labels.csv"), "backbone": "stcl_tiny", "contrast_start": 0.0}
    options |= {"memory_start": 0.3, "segmentation_start": 0.0, "w_class": 0.5, "w_seg": 0.1}
    options |= {"memory_consolidation": False, "log_every": 9, "save_every": 9}
    config = TrainConfig(images=str(trained.photos), output=str(tmp_path / "run"), device="cuda", **TRAINING | options)
    with pretended() as waits:
        train.run(config)
    outside = ("engine.py", "checkpoints.py", "statistics", "dictcomp")  # of the loop and of its log
    counted = {line: count for line, count in waits.items() if not any(name in line for name in outside)}
    assert counted  # that waits are found at all
    assert sum(counted.values()) <= 6 * config.iterations, counted


@pytest.mark.parametrize("arch", ["vit", "deeplabv3plus"])
def test_segtrain(trained, tmp_path, arch):
    encoder = "stcl_tiny" if arch == "vit" else "resnet18"
    truth = str(trained.root / "truth")
    options = {"masks": truth, "val_masks": truth, "arch": arch, "encoder": encoder, "iterations": 1}
    folders = on_both(trained, tmp_path, segtrain, SegtrainConfig, **TRAINING | options)
    losses = [read_jsonl(folder / "metrics.jsonl")[0]["loss"] for folder in folders]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("labels", [None, "labels.csv"])
def test_cam(trained, tmp_path, labels):
    labels = labels and str(trained.root / labels)
    options = {"model": str(trained.run), "labels": labels, "affinity": True, "amp": "off"}
    folders = on_both(trained, tmp_path, cam, CamConfig, **options)
    files = [[read_cam(path) for path in sorted(folder.rglob("*.safetensors"))] for folder in folders]
    assert len(files[0]) == 3
    for mine, other in zip(*files, strict=True):
        assert mine.labels == other.labels
        assert np.allclose(mine.cam_KHW, other.cam_KHW, atol=0.01)
        assert np.allclose(mine.affinity_hwJ, other.affinity_hwJ, atol=0.01)


def test_predict(trained, tmp_path):
    folders = on_both(trained, tmp_path, predict, PredictConfig, model=str(trained.seg), amp="off")
    assert_alike(*folders)


@pytest.mark.parametrize("method", ["crf", "affinity,par"])
def test_refine(trained, tmp_path, method):
    labels = str(trained.root / "labels.csv")
    cams = str(tmp_path / "cams")
    cam.run(
        CamConfig(
            images=str(trained.photos), model=str(trained.run), labels=labels, output=cams, affinity=True, device="cpu"
        )
    )
    assert_alike(*on_both(trained, tmp_path, refine, RefineConfig, cams=cams, method=method))
    assert_alike(*on_both(trained, tmp_path / "of masks", refine, RefineConfig, cams=str(trained.root / "truth")))


def test_refine_a_batch_with_what_cannot_be_read_and_what_is_there(trained, tmp_path):
    cams, masks = tmp_path / "cams", tmp_path / "masks"
    cam.run(CamConfig(images=str(trained.photos), model=str(trained.run), output=str(cams), device="cpu"))
    (cams / "sub dir" / "bär 01.safetensors").write_bytes(b"cut short")
    config = RefineConfig(cams=str(cams), images=str(trained.photos), output=str(masks), device="cuda")
    with pretended():
        assert refine.run(config).skipped == 1
        (masks / "a.png").unlink()
        items = []
        result = refine.run(replace(config, resume=True, overlays=str(tmp_path / "look")), items.append)
    assert [item["image"] for item in items] == ["a", "sub dir/c.v1"]
    assert all(item["overlay"].is_file() and read_mask(item["output"]).shape == (40, 56) for item in items)
    assert result.skipped == 1
    assert [line["image"] for line in read_jsonl(masks / "failed.jsonl")] == ["sub dir/bär 01"]


def assert_alike(*folders):
    """Sums are taken in another order there: of a noise picture some pixels may differ."""
    masks = [[read_mask(path) for path in sorted(folder.rglob("*.png"))] for folder in folders]
    assert len(masks[0]) == 3
    for mine, other in zip(*masks, strict=True):
        assert (mine == other).mean() > 0.99


def test_a_tensor_left_on_the_cpu_is_found(trained, tmp_path, monkeypatch):
    """That the tests above can fail."""
    arange = torch.arange
    monkeypatch.setattr(stcl_cli.cams.torch, "arange", lambda *args, device=None, **kwargs: arange(*args, **kwargs))
    options = {"labels": str(trained.root / "labels.csv"), "backbone": "stcl_tiny", "contrast_start": 0.0}
    with pytest.raises(RuntimeError, match="on the same device"):
        on_both(trained, tmp_path, train, TrainConfig, **TRAINING | options)
