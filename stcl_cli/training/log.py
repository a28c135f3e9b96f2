"""What a training writes down: metrics.jsonl, and the best mIoU so far. Figures must be finite to be written."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stcl_cli.errors import StclError
from stcl_cli.formats.files import atomic_write, json_bytes
from stcl_cli.formats.runs import Failures, append_jsonl, read_jsonl
from stcl_cli.runtime.distributed import all_gather_bytes, rank, ranks, sum_over_ranks
from stcl_cli.wording import shown


class TrainingLog:
    """metrics.jsonl: means since the last line; the device is asked for figures only when a line is written.

    On several ranks each adds its own; the first one writes.
    """

    def __init__(self, folder: Path, failures: Failures, first: int) -> None:
        """`first` iterations were done before, by this run's last checkpoint."""
        self.path, self.failures = folder / "metrics.jsonl", failures
        before = _drop_later_lines(self.path, first)
        self.best_miou: float = max((_number(record.get("val_miou"), -1.0) for record in before), default=-1.0)
        self._start()

    def _start(self) -> None:
        self.steps: list[tuple[dict[str, Tensor], list[str]]] = []  # of each iteration: loss and parts, photos
        self.skipped: list[tuple[str, str]] = []
        self.since = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside does not count in the rate, which is that of training."""
        started = time.perf_counter()
        yield
        self.since += time.perf_counter() - started

    def add(self, parts: dict[str, Tensor], photos: list[str], failures: list[tuple[str, str]]) -> None:
        self.steps.append(({name: value.detach().float() for name, value in parts.items()}, photos))
        self.skipped += failures

    def finite(self, iteration: int) -> list[tuple[dict[str, float], list[str]]]:
        """Figures and photos of each iteration since the last line. StclError if one was not finite."""
        values = torch.stack([value for parts, _ in self.steps for value in parts.values()])
        figures = iter((sum_over_ranks(values) / ranks()).tolist())
        steps = [({name: next(figures) for name in parts}, photos) for parts, photos in self.steps]
        for number, (parts, photos) in enumerate(steps, iteration + 1 - len(steps)):
            if not all(map(math.isfinite, parts.values())):
                raise _not_finite(number, parts, photos)
        return steps

    def write(self, iteration: int, lr: float, of_model: dict[str, float]) -> str:
        """Write a line and give it as text. StclError as `finite`."""
        self._record(self.skipped)
        steps = self.finite(iteration)
        by_name: dict[str, list[float]] = {}
        for parts, _ in steps:
            for name, value in parts.items():
                by_name.setdefault(name, []).append(value)
        means = {name: sum(values) / len(values) for name, values in by_name.items()}
        rate = ranks() * sum(len(photos) for _, photos in steps) / (time.perf_counter() - self.since)
        rounded = {name: float(f"{value:.6g}") for name, value in means.items()}
        if rank() == 0:
            line = {"iteration": iteration, "lr": lr, **rounded, **of_model, "photos_per_second": float(f"{rate:.4g}")}
            append_jsonl(self.path, line)
        self._start()
        return " ".join(f"{name} {value:.3f}" for name, value in means.items())

    def _record(self, skipped: list[tuple[str, str]]) -> None:
        for name, reason in _of_all_ranks(skipped):
            self.failures.add(name, reason)

    def write_measurement(self, iteration: int, measured: dict[str, Any]) -> bool:
        """Whether it is the best so far."""
        self._record(measured.pop("skipped"))
        if rank() == 0:
            append_jsonl(self.path, {"iteration": iteration, **{f"val_{k}": v for k, v in measured.items()}})
        best = measured["miou"] > self.best_miou
        if best:
            self.best_miou = measured["miou"]
        return best


def _not_finite(iteration: int, parts: dict[str, float], photos: list[str]) -> StclError:
    figures = ", ".join(f"{name} {value:.3g}" for name, value in parts.items())
    names = ", ".join(shown(name) for (name,) in _of_all_ranks([(photo,) for photo in photos]))
    return StclError(
        f"the loss or its gradient is no longer finite at iteration {iteration} ({figures}), with the photos {names}; "
        "the last checkpoint is kept; start anew with a lower --lr, by --overwrite or another -o"
    )


def _of_all_ranks(records: list[tuple[str, ...]]) -> list[list[str]]:
    """All ranks' tuples of texts, in rank order."""
    lines = all_gather_bytes(b"".join(json_bytes(record) for record in records))
    return [json.loads(line) for line in lines.splitlines()]


def _number(value: Any, otherwise: float) -> float:
    """A log may have been edited by hand."""
    return value if isinstance(value, int | float) and value == value else otherwise  # nor NaN


def _drop_later_lines(path: Path, first: int) -> list[dict[str, Any]]:
    """A resumed run writes the lines after its checkpoint again."""
    records = [record for record in read_jsonl(path) if _number(record.get("iteration"), first + 1) <= first]
    if path.is_file() and rank() == 0:
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"".join(json_bytes(record) for record in records))
    return records
