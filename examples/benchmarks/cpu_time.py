"""Efficiency on a CPU that others use too: CPU time of a training step and of an export, with matrix products in turn.

    OMP_NUM_THREADS=1 python examples/benchmarks/cpu_time.py --backbone deit_tiny_patch16_224 --amp bf16

`stcl bench` measures whole stages by the clock, which beside other work says little. Here only the network computes, on
random photos with random weights, and `peak_memory_mb` is that of the training step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch
from torch import nn

from stcl_cli.config import TrainConfig
from stcl_cli.flops import cam_gflop, train_gflop
from stcl_cli.inference import photo_cams
from stcl_cli.measuring import PeakMemory
from stcl_cli.networks import build_stcl, parameter_groups
from stcl_cli.runtime import make_runtime, seed_everything
from stcl_cli.stages.objective import Objective, local_window

CLASSES, SCALES, SIDE = 20, (1.0, 0.5, 1.5), 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="deit_tiny_patch16_224")
    parser.add_argument("--crop-size", type=int, default=448)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--amp", default="auto")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--w-class", type=float, default=0.0)
    parser.add_argument("--w-seg", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = TrainConfig(
        images="", labels="", output="", pretrained=False, backbone=options.backbone, crop_size=options.crop_size,
        batch_size=options.batch_size, checkpointing=options.checkpointing, w_class=options.w_class,
        w_seg=options.w_seg,
    )  # fmt: skip
    runtime = make_runtime("cpu", options.amp)
    seed_everything(0)
    model = build_stcl(config, CLASSES)
    window = local_window(config, model.backbone.patch_size)
    peak = PeakMemory(runtime.device)
    for what, work, photos, needed in (
        ("train", training(model, config, runtime), options.batch_size, train_gflop(model, config, window)),
        ("cam", exporting(model, config, runtime), 2, cam_gflop(model, (config.crop_size,) * 2, SCALES)),
    ):
        work()
        memory = peak.megabytes()
        both = [(seconds(work) / photos, seconds(products(runtime))) for _ in range(options.repeats)]
        a_photo, product = (statistics.median(column) for column in zip(*both, strict=True))
        rate = 2 * SIDE**3 / 1e9 / min(product for _, product in both)  # the best: efficiency is not flattered
        line = {"what": what, "cpu_seconds": round(a_photo, 4), "efficiency": round(needed / a_photo / rate, 3)}
        line |= {"matrix_rate_gflops": round(rate, 1), "median_rate": round(2 * SIDE**3 / 1e9 / product, 1)}
        print(json.dumps(vars(options) | line | {"peak_memory_mb": memory if what == "train" else None}), flush=True)


def seconds(work) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def products(runtime):
    a = torch.randn(SIDE, SIDE, dtype=runtime.amp or torch.float32)
    out = a @ a
    return lambda: torch.mm(a, a, out=out)


def training(model: nn.Module, config: TrainConfig, runtime):
    """One step of the last phase."""
    groups = parameter_groups(model.backbone, model, config.lr)
    optimizer, objective = torch.optim.AdamW(groups, fused=True), Objective(model.train(), config, runtime)
    B, side = config.batch_size, config.crop_size
    batch = {
        "photo": torch.randint(256, (B, 3, side, side), dtype=torch.uint8),
        "box": torch.tensor([[0, side, 0, side]] * B),
        "labels": torch.eye(CLASSES)[torch.arange(B) % CLASSES],
        "index": torch.arange(B),
        "uniform": torch.rand(B, config.local_crops),
    }

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        objective(batch, 0.95)[0].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    return step


def exporting(model: nn.Module, config: TrainConfig, runtime):
    """Two photos together, as `stcl cam` takes them on a CPU."""
    photos = list(np.random.default_rng(0).integers(0, 256, (2, config.crop_size, config.crop_size, 3), dtype=np.uint8))
    return lambda: photo_cams(model.eval(), runtime, photos, SCALES)


if __name__ == "__main__":
    main()
