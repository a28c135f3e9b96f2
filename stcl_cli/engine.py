"""The training loop: mixed precision, schedule, clipping, log, checkpoints, resume. It knows no task."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stcl_cli.config import SegtrainConfig, TrainConfig
from stcl_cli.console import meter
from stcl_cli.errors import StclError
from stcl_cli.formats.checkpoints import CheckpointInfo, open_checkpoint, save_checkpoint
from stcl_cli.formats.files import atomic_write, json_bytes
from stcl_cli.formats.runs import Failures, append_jsonl, read_jsonl
from stcl_cli.runtime import Runtime, seed_everything

CLIP_NORM = 5.0

# (batch, progress in [0,1)) -> (total loss, its parts)
Step = Callable[[dict[str, Any], float], tuple[Tensor, dict[str, Tensor]]]


@dataclass
class Run:
    """One training run: what is trained, on what, and where it is written."""

    stage: str
    folder: Path
    config: TrainConfig | SegtrainConfig
    classes: tuple[str, ...]
    model: nn.Module
    groups: list[dict[str, Any]]  # AdamW parameter groups, each with its own peak lr
    step: Step
    batches: Callable[[int, int], Iterable[dict[str, Any]]]  # (first, last iteration) -> batches
    runtime: Runtime
    failures: Failures
    validate: Callable[[], dict[str, Any]] | None = None  # must hold 'miou'


def learning_rate_factor(iteration: int, iterations: int, warmup: float) -> float:
    """Linear warm-up from 1e-6, then polynomial decay with power 0.9 (ToCo)."""
    rise = round(warmup * iterations)
    if iteration < rise:
        return 1e-6 + (1 - 1e-6) * iteration / rise
    return (1 - iteration / iterations) ** 0.9


def fit(run: Run) -> dict[str, Any]:
    """Train to the end, from the last checkpoint if the folder holds one. Returns the last measurement."""
    config = run.config
    model = run.model.to(run.runtime.device).train()
    optimizer = torch.optim.AdamW(run.groups, weight_decay=config.weight_decay, fused=run.runtime.device.type == "cuda")
    peaks = [group["lr"] for group in optimizer.param_groups]
    names = _names_in_order(model, optimizer)
    last = run.folder / "checkpoints" / "last.safetensors"
    first = 0
    if last.is_file():
        checkpoint = open_checkpoint(last, run.stage)
        checkpoint.load_model(model)
        checkpoint.load_optimizer(optimizer, names)
        first = checkpoint.info.iteration
    log = _Log(run.folder / "metrics.jsonl", first)
    validate_every = config.val_every or max(1, config.iterations // 10)
    measured: dict[str, Any] = {}

    def save(name: str, iteration: int) -> None:
        info = CheckpointInfo(run.stage, iteration, run.classes, asdict(config))
        resumable = name == "last"
        save_checkpoint(
            run.folder / "checkpoints" / f"{name}.safetensors",
            model,
            info,
            optimizer if resumable else None,
            names if resumable else None,
        )

    with meter(run.stage, config.iterations, first) as gauge:
        for iteration, batch in enumerate(run.batches(first, config.iterations), first):
            factor = learning_rate_factor(iteration, config.iterations, config.warmup)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            seed_everything(config.seed, 2, iteration)
            for name, reason in batch.pop("failures"):
                run.failures.add(name, reason)
            batch = {k: v.to(run.runtime.device, non_blocking=True) for k, v in batch.items()}
            loss, parts = run.step(batch, iteration / config.iterations)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            log.add({"loss": loss, **parts, "grad_norm": norm}, len(next(iter(batch.values()))))
            done = iteration + 1
            saving = done % config.save_every == 0 or done == config.iterations
            text = None
            # Always before a checkpoint: it stops a run that is no longer finite, and a resumed run logs the same.
            if saving or done % config.log_every == 0:
                text = log.write(done, peaks[0] * factor)
            if run.validate and (done % validate_every == 0 or done == config.iterations):
                measured = run.validate()
                model.train()
                log.write_measurement(done, measured)
                if measured["miou"] > log.best_miou:
                    log.best_miou = measured["miou"]
                    save("best", done)
            if saving:
                save("last", done)
            gauge.advance(text=text)
    return measured


def _names_in_order(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    by_identity = {id(p): name for name, p in model.named_parameters()}
    return [by_identity[id(p)] for group in optimizer.param_groups for p in group["params"]]


class _Log:
    """metrics.jsonl: means since the last line; the device is asked for figures only when a line is written."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        before = _drop_later_lines(path, first)
        self.best_miou: float = max((r["val_miou"] for r in before if r.get("val_miou") is not None), default=-1.0)
        self._start()

    def _start(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.photos, self.since = 0, time.perf_counter()

    def add(self, parts: dict[str, Tensor], photos: int) -> None:
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
            self.counts[name] = self.counts.get(name, 0) + 1
        self.photos += photos

    def write(self, iteration: int, lr: float) -> str:
        means = {name: float(value) / self.counts[name] for name, value in self.sums.items()}
        rate = self.photos / (time.perf_counter() - self.since)
        if not all(map(math.isfinite, means.values())):
            bad = ", ".join(f"{k} {v:.3g}" for k, v in means.items())
            raise StclError(
                f"the loss or its gradient is no longer finite at iteration {iteration} ({bad}); "
                "the last checkpoint is kept; try a lower --lr"
            )
        rounded = {name: float(f"{value:.6g}") for name, value in means.items()}
        append_jsonl(self.path, {"iteration": iteration, "lr": lr, **rounded, "photos_per_second": round(rate, 2)})
        self._start()
        return " ".join(f"{name} {value:.3f}" for name, value in means.items())

    def write_measurement(self, iteration: int, measured: dict[str, Any]) -> None:
        append_jsonl(self.path, {"iteration": iteration, **{f"val_{k}": v for k, v in measured.items()}})
        self.photos, self.since = 0, time.perf_counter()  # the rate is that of training


def _drop_later_lines(path: Path, first: int) -> list[dict[str, Any]]:
    """A resumed run writes the lines after its checkpoint again."""
    records = [record for record in read_jsonl(path) if record["iteration"] <= first]
    if path.is_file():
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"".join(json_bytes(record) for record in records))
    return records
