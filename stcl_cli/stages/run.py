"""`stcl run`: the whole chain in one folder, from photos and image-level labels to a mask for every photo."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from stcl_cli.config import CamConfig, PredictConfig, RefineConfig, RunConfig, SegtrainConfig, TrainConfig
from stcl_cli.console import say
from stcl_cli.errors import StclError
from stcl_cli.formats.files import atomic_write
from stcl_cli.formats.runs import FAILED, Failures, read_failures
from stcl_cli.runtime.launch import launch
from stcl_cli.stages import cam, predict, refine, segtrain, train
from stcl_cli.stages.output import Done, Result, nobody, take_folder

STAGES: dict[str, tuple[ModuleType, type]] = {
    "train": (train, TrainConfig),
    "cam": (cam, CamConfig),
    "refine": (refine, RefineConfig),
    "segtrain": (segtrain, SegtrainConfig),
    "predict": (predict, PredictConfig),
}
# The stages' folders, in their order, and what is in them.
PLACES = {
    "run": "the classification network",
    "cams": "class activation maps",
    "masks": "masks made from the labels",
    "seg": "the segmentation model",
    "predictions": "its mask for every photo",
}


def run(config: RunConfig, done: Done = nobody) -> Result:
    """Run all stages, or go on where a stopped run left off. Raises StclError."""
    if launch().ranks > 1:
        raise StclError("stcl run: is one process; under torchrun or srun start the stages one after the other")
    folder = take_folder(config, "run", resume=not config.overwrite)
    given = {name: value for name, value in asdict(config).items() if value is not None}
    run_chain(folder, given | {"images": _listed(config.images, folder)}, done)
    failures = Failures(folder)
    for place in PLACES:
        for name, reason in read_failures(folder / place / FAILED).items():
            failures.add(name, reason)
    failures.settle()
    for place, what in PLACES.items():
        say(f"{folder / place}: {what}")
    return Result(skipped=len(failures), next=("report", folder))


def run_chain(folder: Path, given: Mapping[str, Any], done: Done = nobody, **own: dict[str, Any]) -> None:
    """All stages, each in its own folder inside `folder`; nothing is done twice. Raises StclError.

    Args:
        given: values by name, for every stage that has an option of this name; all else has the stage's default.
        done: is called with each prediction.
        own: by stage, values for this one only.
    """
    place = {name: str(folder / name) for name in PLACES}
    links = {
        "train": {"output": place["run"]},
        "cam": {"output": place["cams"], "model": place["run"]},
        "refine": {"output": place["masks"], "cams": place["cams"]},
        "segtrain": {"output": place["seg"], "masks": place["masks"], "init": place["run"], "weights": None},
        "predict": {"output": place["predictions"], "model": place["seg"]},
    }
    for number, (name, (stage, config_class)) in enumerate(STAGES.items(), 1):
        known = {field.name for field in fields(config_class)}
        values = {key: value for key, value in given.items() if key in known}
        config = config_class(**values | links[name] | {"resume": True, "overwrite": False} | own.get(name, {}))
        say(f"stage {number} of {len(STAGES)}: {name} -> {config.output}")
        stage.run(config, *([done] if name == "predict" else []))


def _listed(images: str, folder: Path) -> str:
    """What stdin lists is kept in a file, with which the next stages, and a run that was stopped, go on."""
    if images != "-":
        return images
    kept = folder / "photos.txt"
    listed = b"" if kept.is_file() and sys.stdin.isatty() else sys.stdin.buffer.read()
    if listed.strip() or not kept.is_file():
        with atomic_write(kept) as temporary:
            temporary.write_bytes(listed)
    return str(kept)
