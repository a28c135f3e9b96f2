"""docs/scaling.md: what a step sends is counted in the code; its tables follow from that and from what it assumes."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks

from stcl_cli.config import TrainConfig
from stcl_cli.networks import build_stcl
from stcl_cli.runtime.device import make_runtime
from stcl_cli.runtime.distributed import average_gradients, joined
from stcl_cli.training.objective import Objective

PAGE = (Path(__file__).parent.parent / "docs" / "scaling.md").read_text("utf-8")
DEFAULT = TrainConfig(images="", labels="", output="", pretrained=False)
TINY = replace(DEFAULT, backbone="test_vit", crop_size=128, beta_high=0.4, contrast_start=0.0, memory_start=0.5)
TOCO = {"w_class": 0.5, "w_seg": 0.1, "segmentation_start": 0.0}
CLASSES, PHOTOS = 3, 2


def sent_in_a_step(rank, config):
    """(kind, bytes) of the messages of losses and gradients, entries for the memory, and what has a gradient."""
    messages = []
    with joined(torch.device("cpu")):
        torch.manual_seed(0)
        model = build_stcl(config, CLASSES).train()
        objective = Objective(model, config, make_runtime("cpu"))
        torch.manual_seed(rank)
        photos = torch.nn.functional.interpolate(torch.rand(PHOTOS, 3, 8, 8) * 255, size=(128, 128), mode="bicubic")
        batch = {
            "photo": photos.clamp(0, 255).byte(),
            "box": torch.tensor([[0, 128, 0, 128]] * PHOTOS),
            "labels": torch.tensor([[1.0, 0, 0], [1, 1, 0]]),
            "index": torch.arange(PHOTOS),
            "uniform": torch.rand(PHOTOS, config.local_crops),
        }
        objective(batch, 0.1)
        before = model.memory.offered.sum()
        for name in ("all_reduce", "all_gather"):
            function = getattr(dist, name)

            def watched(*arguments, function=function, name=name, **options):
                values = arguments[0 if name == "all_reduce" else 1]
                messages.append((name, values.element_size() * values.numel()))
                return function(*arguments, **options)

            setattr(dist, name, watched)
        loss, _ = objective(batch, 0.9)
        loss.backward()
        of_losses = len(messages)
        average_gradients(model.parameters())
        of_gradients = messages[of_losses:]
        learnt = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        entries = int(model.memory.offered.sum() - before)
    return messages[:of_losses], of_gradients, entries, learnt


def trained(model, more):
    """Names of the parameters that get a gradient, by what they belong to."""
    parts = ("backbone", "classifier", "classifier_aux", *(("student", "decoder") if more else ()))
    return {name for name, _ in model.named_parameters() if name.split(".")[0] in parts}


def bytes_of(model, names):
    return 4 * sum(parameter.numel() for name, parameter in model.named_parameters() if name in names)


@pytest.mark.parametrize("more", [{}, TOCO], ids=["default", "toco"])
def test_what_a_step_sends(more):
    results = run_ranks(2, sent_in_a_step, replace(TINY, **more))
    model = build_stcl(replace(TINY, **more), CLASSES)
    width = model.backbone.width
    for losses, gradients, entries, learnt in results:
        assert learnt == trained(model, more)
        assert gradients == [("all_reduce", bytes_of(model, learnt))]
        sums = [size for kind, size in losses if kind == "all_reduce"]
        gathered = [size for kind, size in losses if kind == "all_gather"]
        hardest = 2 * 4 * (CLASSES + 1)  # and which are anchors' own, of each class and background
        assert (len(sums), sum(sums)) == ((6, 52 + hardest) if more else (3, 24 + hardest))
        assert gathered[0] == 8  # how many rows come
        most = gathered[1] // (4 * width)  # of the rank that has more
        assert entries / 2 <= most <= 2 * PHOTOS + 1  # a label and background; two labels and background
        assert gathered[1:] == [most * size for size in (4 * width, 8, 4, 8)]


@pytest.fixture(scope="module")
def vit_b():
    with torch.device("meta"):
        return build_stcl(replace(DEFAULT, **TOCO), 20)


def test_the_page_says_so_of_vit_b(vit_b):
    default, everything = (bytes_of(vit_b, trained(vit_b, more)) for more in ({}, TOCO))
    assert f"{default / 1e6:.1f} MB; {everything / 1e6:.1f} MB with `--w-class` and `--w-seg` |" in PAGE
    assert f"{4 * vit_b.backbone.width + 8 + 4 + 8:,} bytes an entry" in PAGE
    assert (
        f"A ViT-B's memory is {sum(b.numel() * b.element_size() for b in vit_b.memory.buffers()) / 1e6:.1f} MB" in PAGE
    )
    with torch.device("meta"):
        tiny = build_stcl(replace(DEFAULT, backbone="deit_tiny_patch16_224"), 20)
    assert f"DeiT-tiny's gradients have {bytes_of(tiny, trained(tiny, {})) / 1e6:.1f} MB" in PAGE
    slots = vit_b.memory.quality.numel()
    assert f"a class: {slots:,} for VOC" in PAGE
    hardest = 2 * 4 * 21
    assert f"3 messages, {24 + hardest} bytes; 6 messages, {52 + hardest} bytes" in PAGE


def efficiency(gpus, photos, bandwidth, gradients):
    """The page's model; milliseconds, MB and GB/s."""
    compute = photos / 145 * 1000
    ring = 2 * (gpus - 1) / gpus * gradients / bandwidth
    memory = (gpus - 1) * photos * 2.5 * 3092e-6 / bandwidth
    small = 8 * 0.02 * math.log2(gpus)
    return compute / (compute + ring + memory + small)


def test_the_table_follows_from_the_model(vit_b):
    gradients = bytes_of(vit_b, trained(vit_b, {})) / 1e6
    rows = re.findall(r"^\| (\d+) \|((?: [\d.]+ \|)+)$", PAGE, re.MULTILINE)
    assert [int(gpus) for gpus, _ in rows] == [8, 64, 256]
    for gpus, figures in rows:
        networks = (300, 300 if gpus == "8" else 10)  # eight are in one machine
        expected = [efficiency(int(gpus), photos, band, gradients) for band in networks for photos in (4, 16)]
        assert figures.split()[::2] == [f"{value:.2f}" for value in expected]
