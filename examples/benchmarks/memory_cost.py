"""What the memory bank costs: one training iteration with it and without, in turn; one JSON line a size of the bank.

    python examples/benchmarks/memory_cost.py --backbone deit_tiny_patch16_224 --crop-size 224 --amp bf16

The bank is full, every photo has two labels, weights and photos are random: nothing but time is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from torch import nn

from stcl_cli.config import TrainConfig
from stcl_cli.networks import build_stcl
from stcl_cli.runtime.device import make_runtime, seed_everything
from stcl_cli.training.objective import Objective

SIZES = ((20, 256), (20, 4096), (1000, 256))  # classes, slots
PROGRESS = 0.55  # contrast and memory are on, the segmentation branch is not yet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="deit_tiny_patch16_224")
    parser.add_argument("--crop-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", default="auto")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    for classes, slots in SIZES:
        steps = [a_step(options, classes, slots) for slots in (slots, 0)]
        for step in steps:
            step()
        seconds = [[step() for step in steps] for _ in range(options.repeats)]
        with_memory, without = (statistics.median(column) for column in zip(*seconds, strict=True))
        ratio = statistics.median(a / b for a, b in seconds)
        line = {"classes": classes, "slots": slots, "seconds": round(with_memory, 4), "without": round(without, 4)}
        print(json.dumps(vars(options) | line | {"ratio": round(ratio, 3)}), flush=True)


def a_step(options: argparse.Namespace, classes: int, slots: int):
    """One iteration, forward and backward, that gives its seconds."""
    config = TrainConfig(
        images="", labels="", output="", pretrained=False, memory_slots=slots,
        backbone=options.backbone, crop_size=options.crop_size, batch_size=options.batch_size,
    )  # fmt: skip
    seed_everything(0)
    runtime = make_runtime(options.device, options.amp)
    model = build_stcl(config, classes).to(runtime.device)
    if slots:
        fill(model.memory)
    objective = Objective(model, config, runtime)
    B, side = options.batch_size, options.crop_size
    batch = {
        "photo": torch.randint(0, 256, (B, 3, side, side), dtype=torch.uint8),
        "box": torch.tensor([[0, side, 0, side]] * B),
        "labels": torch.eye(classes)[:B] + torch.eye(classes)[1 : B + 1],
        "index": torch.arange(B),
        "uniform": torch.rand(B, config.local_crops),
    }
    batch = {name: value.to(runtime.device) for name, value in batch.items()}

    def step() -> float:
        if runtime.device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        loss, _ = objective(batch, PROGRESS)
        loss.backward()
        model.zero_grad(set_to_none=True)
        if runtime.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return step


def fill(bank: nn.Module) -> None:
    bank.embedding.copy_(nn.functional.normalize(torch.randn_like(bank.embedding), dim=-1))
    bank.quality.uniform_(0.3, 1)
    bank.stored_at.fill_(0)
    bank.photo.fill_(0)
    bank.prototype.copy_(nn.functional.normalize(bank.embedding.mean(1), dim=-1))
    bank.trust.fill_(1)
    bank.read_by_prototypes()


if __name__ == "__main__":
    main()
