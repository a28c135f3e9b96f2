"""Efficiency of the network alone: a training step and an export, with matrix products in turn.

    OMP_NUM_THREADS=1 python examples/benchmarks/step_time.py --backbone deit_tiny_patch16_224 --amp bf16 --device cpu
    python examples/benchmarks/step_time.py --device cuda --batch-size 16 --profile

`stcl bench` measures whole stages by the clock. Here only the network computes, on random photos with random weights:
on a CPU in CPU time on one thread, so that other work beside it counts less; on a GPU by the clock. `peak_memory_mb` is
that of the training step. `--profile` says on stderr which kernels take a GPU's time, and how long it has none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

import numpy as np
import torch
from torch import nn

from stcl_cli.config import TrainConfig
from stcl_cli.flops import cam_gflop, train_gflop
from stcl_cli.inference import photo_cams
from stcl_cli.networks import build_stcl, compile_blocks, parameter_groups
from stcl_cli.runtime.device import Runtime, make_runtime, seed_everything
from stcl_cli.runtime.measuring import PeakMemory
from stcl_cli.training.objective import Objective, local_window

CLASSES, SCALES = 20, (1.0, 0.5, 1.5)
SIDE = {"cpu": 1024, "cuda": 8192}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="vit_base_patch16_224.augreg_in21k_ft_in1k")
    parser.add_argument("--crop-size", type=int, default=448)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", default="auto")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--w-class", type=float, default=0.0)
    parser.add_argument("--w-seg", type=float, default=0.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    runtime = make_runtime(options.device, options.amp)
    on_gpu = runtime.device.type == "cuda"
    torch.set_num_threads(1)
    config = TrainConfig(
        images="", labels="", output="", pretrained=False, backbone=options.backbone, crop_size=options.crop_size,
        batch_size=options.batch_size, checkpointing=options.checkpointing, w_class=options.w_class,
        w_seg=options.w_seg,
    )  # fmt: skip
    seed_everything(0)
    model = build_stcl(config, CLASSES)
    window = local_window(config, model.backbone.patch_size)
    needed = train_gflop(model, config, window), cam_gflop(model, (config.crop_size,) * 2, SCALES)
    model.to(runtime.device)
    if options.compile:
        compile_blocks(model, runtime.device)
    peak, photos = PeakMemory(runtime.device), 16 if on_gpu else 2
    memory = product = None
    for what, work, count, gflop in (
        ("train", training(model, config, runtime), config.batch_size, needed[0]),
        ("cam", exporting(model, config, runtime, photos), photos, needed[1]),
    ):
        for _ in range(3 if on_gpu else 1):
            work()
        memory = memory or peak.megabytes()  # of the training, before the matrices of products are made
        product = product or products(runtime)
        both = [(seconds(work, runtime) / count, seconds(product, runtime)) for _ in range(options.repeats)]
        a_photo, a_product = (statistics.median(column) for column in zip(*both, strict=True))
        flop = 2 * SIDE[runtime.device.type] ** 3 / 1e9
        rate = flop / min(taken for _, taken in both)  # the best: efficiency is not flattered
        line = {"what": what, "seconds": round(a_photo, 5), "photos_per_second": round(1 / a_photo, 2)}
        line |= {"efficiency": round(gflop / a_photo / rate, 3), "matrix_rate_gflops": round(rate, 1)}
        line |= {"median_rate": round(flop / a_product, 1), "gflop_per_photo": round(gflop, 1)}
        print(json.dumps(vars(options) | line | {"peak_memory_mb": memory if what == "train" else None}), flush=True)
        if options.profile:
            profile(what, work, runtime)


def seconds(work, runtime: Runtime) -> float:
    clock = time.process_time
    if runtime.device.type == "cuda":
        torch.cuda.synchronize()
        clock = time.perf_counter
    started = clock()
    work()
    if runtime.device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def products(runtime: Runtime):
    side = SIDE[runtime.device.type]
    a = torch.randn(side, side, dtype=runtime.amp or torch.float32, device=runtime.device)
    out = a @ a
    return lambda: torch.mm(a, a, out=out)


def training(model: nn.Module, config: TrainConfig, runtime: Runtime):
    """One step of the last phase."""
    groups = parameter_groups(model.backbone, model, config.lr)
    optimizer, objective = torch.optim.AdamW(groups, fused=True), Objective(model, config, runtime, most_labels=1)
    B, side = config.batch_size, config.crop_size
    batch = {
        "photo": torch.randint(256, (B, 3, side, side), dtype=torch.uint8),
        "box": torch.tensor([[0, side, 0, side]] * B),
        "labels": torch.eye(CLASSES)[torch.arange(B) % CLASSES],
        "index": torch.arange(B),
        "uniform": torch.rand(B, config.local_crops),
    }
    batch = {name: values.to(runtime.device) for name, values in batch.items()}

    def step() -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        objective(batch, 0.95)[0].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    return step


def exporting(model: nn.Module, config: TrainConfig, runtime: Runtime, count: int):
    """Photos together, as `stcl cam` takes them."""
    photos = np.random.default_rng(0).integers(0, 256, (count, config.crop_size, config.crop_size, 3), dtype=np.uint8)
    return lambda: photo_cams(model.eval(), runtime, list(photos), SCALES)


def profile(what: str, work, runtime: Runtime, turns: int = 3) -> None:
    """Milliseconds of a turn: by the clock, of kernels, and of each kernel by name."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if runtime.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    clock = seconds(work, runtime)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(turns):
            seconds(work, runtime)
    of_kernel: dict[str, list[float]] = {}
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            of_kernel.setdefault(event.name, []).append(event.self_device_time_total / 1000 / turns)
    busy, launches = sum(map(sum, of_kernel.values())), sum(map(len, of_kernel.values())) / turns
    print(f"{what}: {1000 * clock:.1f} ms a turn, kernels {busy:.1f} ms, {launches:.0f} of them", file=sys.stderr)
    for name, times in sorted(of_kernel.items(), key=lambda item: -sum(item[1]))[:30]:
        print(f"{sum(times):9.3f} ms {len(times) // turns:5d} x  {name[:110]}", file=sys.stderr)


if __name__ == "__main__":
    main()
