"""`stcl bench`: how fast each stage runs on this machine, on photos and weights made up for it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from stcl_cli.config import BenchConfig, CamConfig, PredictConfig, RefineConfig, SegtrainConfig, TrainConfig
from stcl_cli.console import quietly, say
from stcl_cli.data.loader import TrainingViews
from stcl_cli.data.photos import list_photos
from stcl_cli.data.pixels import read_photo
from stcl_cli.data.textures import PICTURES, write_textures
from stcl_cli.errors import StclError
from stcl_cli.flops import cam_gflop, predict_gflop, segtrain_gflop, train_gflop
from stcl_cli.formats.checkpoints import CheckpointInfo, save_checkpoint
from stcl_cli.formats.files import output_path
from stcl_cli.formats.runs import read_jsonl
from stcl_cli.networks import build_segmenter, build_stcl
from stcl_cli.runtime.device import Runtime, cores, make_runtime
from stcl_cli.runtime.measuring import PeakMemory, matrix_rate, steady_rate
from stcl_cli.runtime.pipeline import BATCH_PIXELS
from stcl_cli.stages import cam, predict, refine, segtrain, train
from stcl_cli.stages.output import Done, Result
from stcl_cli.training.objective import local_window

CLASSES = tuple(f"class {number}" for number in range(1, 21))
PHOTOS = {"cpu": 16, "cuda": 1024}


class Measured(NamedTuple):
    """What one stage did: photos a second, and GFLOP that the method needs for one (None: no matrix products)."""

    photos_per_second: float
    gflop_per_photo: float | None


def run(config: BenchConfig, done: Done) -> Result:
    """Measure the stages one after the other; `done` gets each one's figures. Raises StclError."""
    runtime = make_runtime(config.device, config.amp)
    with tempfile.TemporaryDirectory(prefix="stcl-bench-") as folder:
        bench = Bench(config, runtime, Path(folder))
        for what in config.what or tuple(STAGES):
            count = bench.trained_on if what in ("train", "segtrain") else bench.count
            say(f"{what}: {count} photos of {config.crop_size} x {config.crop_size}")
            before = matrix_rate(runtime)
            peak = PeakMemory(runtime.device)
            with quietly():
                rate, needed = STAGES[what](bench)
            memory, matrices = peak.megabytes(), max(before, matrix_rate(runtime))
            done(
                {
                    "what": what,
                    "photos_per_second": float(f"{rate:.4g}"),
                    "efficiency": needed and round(needed * rate / matrices, 3),
                    "gflop_per_photo": needed and round(needed, 2),
                    "matrix_rate_gflops": round(matrices, 1),
                    "peak_memory_mb": memory,
                    "loader_ms": round(bench.loader_ms(what), 2),
                    "backbone": config.backbone,
                    "crop_size": config.crop_size,
                    "batch_size": config.batch_size if what in ("train", "segtrain") else None,
                    "device": _device_name(runtime),
                    "amp": "off" if runtime.amp is None else "bf16",
                }
            )
    return Result()


class Bench:
    """Made-up photos, labels, masks and CAMs in a folder, and each stage run on them."""

    def __init__(self, config: BenchConfig, runtime: Runtime, folder: Path) -> None:
        self.config, self.runtime, self.folder = config, runtime, folder
        self.batch = max(1, BATCH_PIXELS[runtime.device.type] // config.crop_size**2)
        processes = cores() if config.workers is None else config.workers
        self.at_once = max(1, processes) if runtime.device.type == "cpu" else self.batch  # by refine
        least = 4 * max(self.batch, self.at_once)  # of an export, of which the first and the last batch do not count
        self.trained_on = config.photos or max(PHOTOS[runtime.device.type], least)
        self.count = max(self.trained_on, least)
        self.size = (config.crop_size, config.crop_size)
        self.given = {"images": str(folder / "photos"), "device": config.device, "workers": config.workers}
        # One more than the photos' side, as most photos are smaller than the largest that a run takes.
        self.trained = {"images": "", "output": "", "pretrained": False, "max_side": config.crop_size + 1}
        write_textures(folder, self.count, config.crop_size, CLASSES)

    def train(self) -> Measured:
        config = self.config
        settings = TrainConfig(
            labels=str(self.folder / "labels.csv"),
            output=str(self.folder / "run"),
            backbone=config.backbone,
            contrast_start=0.0,
            memory_start=0.0,
            segmentation_start=0.0,
            memory_consolidation=False,  # once a run, and not in the rate
            w_class=config.w_class,
            w_seg=config.w_seg,
            **self._training(),
        )
        train.run(settings)
        model = build_stcl(settings, len(CLASSES))
        needed = train_gflop(model, settings, local_window(settings, model.backbone.patch_size))
        return Measured(_rate_of_training(settings.output), needed)

    def segtrain(self) -> Measured:
        settings = SegtrainConfig(
            masks=str(self.folder / "masks"),
            output=str(self.folder / "seg"),
            encoder=self.config.backbone,
            **self._training(),
        )
        segtrain.run(settings)
        needed = segtrain_gflop(build_segmenter(settings, len(CLASSES)), settings.crop_size)
        return Measured(_rate_of_training(settings.output), needed)

    def _training(self) -> dict[str, Any]:
        """Options of both trainings; a line of the log for each eighth of the photos, and one before for warming up."""
        config = self.config
        iterations = max(2, self.trained_on // config.batch_size)
        log_every = max(1, iterations // 8)
        return self.given | {
            "amp": config.amp,
            "compile": config.compile,
            "pretrained": False,
            "crop_size": config.crop_size,
            "max_side": config.crop_size,
            "batch_size": config.batch_size,
            "accumulate": config.accumulate,
            "checkpointing": config.checkpointing,
            "iterations": iterations + log_every,
            "save_every": iterations + log_every,
            "log_every": log_every,
        }

    def cam(self) -> Measured:
        trained = TrainConfig(labels="", backbone=self.config.backbone, **self.trained)
        model = build_stcl(trained, len(CLASSES))
        settings = CamConfig(
            model=self._checkpoint("train", model, trained),
            labels=str(self.folder / "labels.csv"),
            output=str(self.folder / "cam"),
            amp=self.config.amp,
            compile=self.config.compile,
            **self.given,
        )
        rate = self._rate_of(lambda done: cam.run(settings, done), self.batch)
        return Measured(rate, cam_gflop(model, self.size, settings.scales))

    def predict(self) -> Measured:
        trained = SegtrainConfig(masks="", encoder=self.config.backbone, **self.trained)
        model = build_segmenter(trained, len(CLASSES))
        settings = PredictConfig(
            model=self._checkpoint("segtrain", model, trained),
            output=str(self.folder / "predict"),
            amp=self.config.amp,
            compile=self.config.compile,
            **self.given,
        )
        rate = self._rate_of(lambda done: predict.run(settings, done), self.batch)
        return Measured(rate, predict_gflop(model, self.size, settings.scales, settings.flip))

    def refine(self) -> Measured:
        settings = RefineConfig(
            cams=str(self.folder / "cams"),
            output=str(self.folder / "refine"),
            max_side=self.trained["max_side"],
            **self.given,
        )
        return Measured(self._rate_of(lambda done: refine.run(settings, done), self.at_once), None)

    def loader_ms(self, what: str) -> float:
        """CPU milliseconds to read a photo; for a training also to cut and augment it."""
        photos, _ = list_photos(self.given["images"])
        work: Callable[[int], Any] = lambda index: read_photo(photos[index].path, self.config.crop_size)  # noqa: E731
        if what in ("train", "segtrain"):
            config = TrainConfig(labels="", crop_size=self.config.crop_size, **self.trained)
            labels = np.zeros((len(photos), len(CLASSES)), np.float32)
            masks = [output_path(self.folder / "masks", photo.name, ".png") for photo in photos]
            more: dict[str, Any] = {"labels": labels} if what == "train" else {"masks": masks}
            views = TrainingViews(photos, config, torch.zeros(3), uniforms=config.local_crops, **more)
            work = lambda index: views[index, index]  # noqa: E731
        started = time.process_time()
        for turn in range(2 * PICTURES):
            work(turn % len(photos))
        return 1000 * (time.process_time() - started) / (2 * PICTURES)

    def _checkpoint(self, stage: str, model: nn.Module, config: TrainConfig | SegtrainConfig) -> str:
        path = self.folder / f"{stage}.safetensors"
        save_checkpoint(path, model, CheckpointInfo(stage, 0, CLASSES, asdict(config)))
        return str(path)

    def _rate_of(self, work: Callable[[Done], Result], batch: int) -> float:
        """Photos a second of an export, without its start and its end."""
        times: list[float] = []
        result = work(lambda item: times.append(time.perf_counter()))
        if result.skipped:
            raise StclError(f"{result.skipped} photos were skipped; take a smaller --crop-size, or another --device")
        return steady_rate(times, batch)


STAGES: dict[str, Callable[[Bench], Measured]] = {
    "train": Bench.train,
    "cam": Bench.cam,
    "refine": Bench.refine,
    "segtrain": Bench.segtrain,
    "predict": Bench.predict,
}


def _rate_of_training(folder: str) -> float:
    """Photos a second over all lines but the first; each stands for the iterations since the one before it."""
    before, *lines = read_jsonl(Path(folder) / "metrics.jsonl")
    iterations = seconds_a_photo = 0.0
    for line in lines:
        count = line["iteration"] - before["iteration"]
        iterations, seconds_a_photo = iterations + count, seconds_a_photo + count / line["photos_per_second"]
        before = line
    return iterations / seconds_a_photo


def _device_name(runtime: Runtime) -> str:
    if runtime.device.type == "cuda":
        return torch.cuda.get_device_name(runtime.device)
    return f"cpu, {torch.get_num_threads()} threads"
