"""`stcl cam`: photos and a run -> one CAM file a photo."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stcl_cli.config import CamConfig
from stcl_cli.console import meter, say
from stcl_cli.data.labels import match_labels, read_labels
from stcl_cli.data.photos import list_photos, photo_size, read_photo
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats.cams import CamFile, write_cam
from stcl_cli.formats.files import output_path
from stcl_cli.inference import label_maps, photo_affinity, photo_cams
from stcl_cli.networks import load_stcl
from stcl_cli.runtime import Runtime, make_runtime
from stcl_cli.stages.output import Done, Result, nobody, open_folder, skip
from stcl_cli.within_memory import Network
from stcl_models.stcl import Stcl


def run(config: CamConfig, done: Done = nobody) -> Result:
    """Export. Raises StclError."""
    runtime = make_runtime(config.device, config.amp)
    model, info, trained = load_stcl(Path(config.model))
    photos, skipped = list_photos(config.images, config.list)
    given: dict[str, tuple[int, ...]] = {}
    if config.labels:
        matched, unlabelled, _ = match_labels(photos, read_labels(config.labels, info.classes, config.labels_format))
        if not matched:
            raise StclError(f"{config.labels}: none of its names is a photo in {config.images}")
        given = {photo.name: labels for photo, labels in matched}
        skipped = skipped + [(photo.name, f"no label in {config.labels}") for photo in unlabelled]
    folder, failures = open_folder(config, "cam", info.classes)
    mine = failures.shard.mine
    skipped = [(name, reason) for name, reason in skipped if mine(name)]
    skip(failures, skipped)
    network = Network(model, runtime)
    wanted = [photo for photo in photos if mine(photo.name) and (not config.labels or photo.name in given)]
    todo = [photo for photo in wanted if not os.path.exists(output_path(folder, photo.name, ".safetensors"))]
    with meter("cam", len(wanted), len(wanted) - len(todo)) as gauge:
        for photo in todo:
            try:
                pixels = read_photo(photo.path, trained.max_side)
                work = partial(_cam_of, config=config, pixels=pixels, labels=given.get(photo.name))
                made = network.compute(work, photo.path)
                file = CamFile(
                    classes=info.classes,
                    size=photo_size(photo.path),
                    source="given" if config.labels else "predicted",
                    **made,
                )
                path = output_path(folder, photo.name, ".safetensors")
                write_cam(path, file)
            except PhotoError as error:
                skip(failures, [(photo.name, error)])
            else:
                names = [info.classes[label] for label in file.labels]
                done({"image": photo.name, "output": path, "classes": names, "source": file.source})
            gauge.advance()
    failures.merge()
    say(f"{len(wanted) + len(skipped) - len(failures)} CAMs in {folder}")
    return Result(skipped=len(failures), next=("refine", folder, "--images", config.images, "-o", "MASKS"))


def _cam_of(
    model: Stcl, runtime: Runtime, config: CamConfig, pixels: np.ndarray, labels: tuple[int, ...] | None
) -> dict[str, Any]:
    """The fields of a CamFile that the network computes; without labels they are predicted."""
    cams = photo_cams(model, runtime, pixels, config.scales)
    if labels is None:
        labels = tuple((cams.probability_C >= config.threshold).nonzero().flatten().tolist())
    return {
        "labels": labels,
        "cam_KHW": label_maps(cams, labels, model.memory, config.memory).cpu().numpy(),
        "scores": tuple(cams.probability_C[list(labels)].tolist()),
        "affinity": photo_affinity(model, runtime, pixels, 1.0) if config.affinity else None,
    }
