"""The training loop: mixed precision, schedule, clipping, log, checkpoints, resume. It knows no task."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stcl_cli.config import SegtrainConfig, TrainConfig
from stcl_cli.console import detail, meter, say
from stcl_cli.errors import StclError
from stcl_cli.formats.checkpoints import CheckpointInfo, last_checkpoint, open_checkpoint, save_checkpoint
from stcl_cli.formats.photo_labels import PhotoLabels, read_photo_labels, write_photo_labels
from stcl_cli.formats.runs import Failures
from stcl_cli.runtime.device import Runtime, seed_everything
from stcl_cli.runtime.distributed import (
    average_gradients,
    check_same,
    from_first_rank,
    rank,
    ranks,
    synchronise_batch_norm,
)
from stcl_cli.training.log import TrainingLog
from stcl_cli.wording import counted, shown

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
    photos: PhotoLabels  # those trained on, by whose order batches are drawn and a memory counts
    model: nn.Module
    groups: list[dict[str, Any]]  # AdamW parameter groups, each with its own peak lr
    step: Step
    batches: Callable[[int, int], Iterable[dict[str, Any]]]  # (first, last iteration) -> batches of this rank
    runtime: Runtime
    skipped: Sequence[tuple[str, str]] = ()  # (name, why) of inputs that cannot be trained on
    # On all ranks, given where to say how far it is; holds 'miou', and 'skipped' (name, reason).
    validate: Callable[[Callable[[str], None]], dict[str, Any]] | None = None
    # After the last step, on all ranks; tells likewise, and gives (name, reason) of what this rank could not use.
    finish: Callable[[Callable[[str], None]], list[tuple[str, str]]] | None = None
    figures: Callable[[], dict[str, float]] | None = None  # of the network, for each line of metrics.jsonl


def learning_rate_factor(iteration: int, iterations: int, warmup: float) -> float:
    """Linear warm-up from 1e-6, then polynomial decay with power 0.9 (ToCo)."""
    rise = round(warmup * iterations)
    if iteration < rise:
        return 1e-6 + (1 - 1e-6) * iteration / rise
    return (1 - iteration / iterations) ** 0.9


def fit(run: Run) -> tuple[dict[str, Any], int]:
    """Train to the end, from the last checkpoint if the folder holds one.

    On several ranks every one makes every step; the first one writes.

    Returns:
        The last measurement, and how many inputs were skipped; 0 but on the first rank.

    Raises:
        StclError: the loss is no longer finite, or the checkpoint is of another run, or of other photos.
    """
    config, device = run.config, run.runtime.device
    model = run.model.to(device).train()
    optimizer = torch.optim.AdamW(run.groups, weight_decay=config.weight_decay, fused=True)
    peaks = [group["lr"] for group in optimizer.param_groups]
    names = _names_in_order(model, optimizer)
    first = _load_last(run, model, optimizer, names)
    check_same("output folder", str(first))
    photos = _keep_photos(run, first)
    failures = _failures(run, photos if first else ())
    _say_where_it_is(run, first, photos)
    from_first_rank(model.state_dict().values())
    synchronise_batch_norm(model)
    log = TrainingLog(run.folder, failures, first)
    tenth = max(1, config.iterations // 10)
    validate_every, save_every = config.val_every or tenth, config.save_every or min(500, tenth)
    measured: dict[str, Any] = {}
    # How the folder was entered is not part of what was run.
    described = {name: value for name, value in asdict(config).items() if name not in ("resume", "overwrite")}

    def save(name: str, iteration: int) -> None:
        if rank() == 0:
            info = CheckpointInfo(run.stage, iteration, run.classes, described, ranks())
            resumable = (optimizer, names) if name == "last" else ()
            save_checkpoint(run.folder / "checkpoints" / f"{name}.safetensors", model, info, *resumable)

    with meter(run.stage, config.iterations, first) as gauge:
        for iteration, batch in enumerate(run.batches(first, config.iterations), first):
            factor = learning_rate_factor(iteration, config.iterations, config.warmup)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            seed_everything(config.seed, 2, iteration, rank())
            seen, unread = batch.pop("names"), batch.pop("failures")
            batch = {k: v.to(device, non_blocking=True) for k, v in batch.items()}
            optimizer.zero_grad(set_to_none=True)
            parts = _backward(run, batch, iteration / config.iterations)
            average_gradients(model.parameters())
            norm = nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            log.add({**parts, "grad_norm": norm}, seen, unread)
            done = iteration + 1
            saving = done % save_every == 0 or done == config.iterations
            text = None
            if run.finish and done == config.iterations:
                with log.paused():
                    log.skipped += run.finish(gauge.tell)
            measuring = run.validate and (done % validate_every == 0 or done == config.iterations)
            # Always before a checkpoint: it stops a run that is no longer finite, and a resumed run logs the same.
            if saving or done % config.log_every == 0:
                text = log.write(done, peaks[0] * factor, run.figures() if run.figures else {})
            elif measuring:
                log.finite(done)
            if measuring:
                with log.paused():
                    measured = run.validate(gauge.tell)
                model.train()
                if log.write_measurement(done, measured):
                    with log.paused():
                        save("best", done)
            if saving:
                with log.paused():
                    save("last", done)
            gauge.advance(text=text)
    failures.settle()
    return measured, len(failures) if rank() == 0 else 0


def check_options(config: TrainConfig | SegtrainConfig) -> None:
    """StclError if a batch cannot be computed in equal parts, or a range is none."""
    if config.batch_size % config.accumulate:
        raise StclError(f"--accumulate {config.accumulate}: must divide --batch-size {config.batch_size}")
    low, high = config.rescale
    if low > high:
        raise StclError(f"--rescale {low:g} {high:g}: give the smaller one first")


def _backward(run: Run, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
    """Adds up the gradients of the batch's parts; returns the means over them of the loss and its parts."""
    count = run.config.accumulate
    means: dict[str, Tensor] = {}
    for pieces in zip(*(values.chunk(count) for values in batch.values()), strict=True):
        loss, parts = run.step(dict(zip(batch, pieces, strict=True)), progress)
        (loss / count).backward()
        for name, value in {"loss": loss, **parts}.items():
            means[name] = means.get(name, 0) + value.detach() / count
    return means


def _load_last(run: Run, model: nn.Module, optimizer: torch.optim.Optimizer, names: list[str]) -> int:
    """Go on from the folder's last checkpoint, if there is one: the iterations done."""
    last = last_checkpoint(run.folder)
    if not last.is_file():
        return 0
    checkpoint = open_checkpoint(last, run.stage)
    if checkpoint.info.ranks != ranks():
        raise StclError(
            f"{shown(last)}: was trained by {checkpoint.info.ranks} processes at once, not by {ranks()}; "
            "start as many, or the photos would come in another order"
        )
    checkpoint.load_model(model)
    checkpoint.load_optimizer(optimizer, names)
    return checkpoint.info.iteration


def _keep_photos(run: Run, first: int) -> PhotoLabels:
    """Those trained on, as photos.json says from now on.

    A training that has ended keeps its photos, whatever else is in the folder by now.

    Raises:
        StclError: one is to go on with other photos: batches would be drawn anew.
    """
    before = read_photo_labels(run.folder) if first else None
    if before is None:
        if rank() == 0:
            write_photo_labels(run.folder, run.photos)
        return run.photos
    if list(before) != list(run.photos) and first < run.config.iterations:
        raise StclError(
            f"{shown(run.folder)}: was begun with other photos to learn from ({len(before)}, now "
            f"{len(run.photos)}); go on with those, or start anew with --overwrite"
        )
    return before


def _say_where_it_is(run: Run, first: int, photos: PhotoLabels) -> None:
    """What a training that finds a checkpoint does."""
    new = len(run.photos.keys() - photos.keys())
    if first == run.config.iterations:
        more = f"; new since then and not learned from: {new} (--overwrite begins anew)" if new else ""
        say(f"{shown(run.folder)}: trained to its end before, on {counted(len(photos), 'photo')}{more}")
    elif first:
        say(f"goes on at iteration {first} of {run.config.iterations}")


def _failures(run: Run, kept: Container[str]) -> Failures:
    """What is skipped: inputs found out before, and of those `kept` what failed before the last checkpoint."""
    failures = Failures(run.folder, keep=kept, write=rank() == 0)
    for name, reason in run.skipped:
        failures.add(name, reason)
        detail(f"skipped {shown(name)}: {reason}")
    return failures


def _names_in_order(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    by_identity = {id(p): name for name, p in model.named_parameters()}
    return [by_identity[id(p)] for group in optimizer.param_groups for p in group["params"]]
