"""`stcl cam`: photos and a run -> one CAM file a photo."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stcl_cli.config import CamConfig
from stcl_cli.console import meter, say, warn
from stcl_cli.data.labels import labels_of
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.data.pixels import photo_size, read_photo
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats.cams import CamFile, write_cam
from stcl_cli.formats.files import output_path
from stcl_cli.formats.photo_labels import add_photo_labels
from stcl_cli.formats.runs import Failures
from stcl_cli.inference import label_maps, label_probabilities, network_size, photo_affinities, photo_cams
from stcl_cli.networks import compile_blocks, load_stcl
from stcl_cli.presence import UNSURE
from stcl_cli.runtime.device import Runtime, fetch, make_runtime
from stcl_cli.runtime.out_of_memory import Network
from stcl_cli.runtime.pipeline import Pipeline
from stcl_cli.stages.output import Done, Outcomes, Result, finish, nobody, open_folder, skip, tell_unused
from stcl_models.stcl import Stcl


def run(config: CamConfig, done: Done = nobody) -> Result:
    """Export. Raises StclError."""
    if config.labels:
        tell_unused(config, ["threshold"], "--labels say which classes are shown")
    else:
        tell_unused(config, ["labels_format"], "it is of the file that --labels names, and there is none")
    runtime = make_runtime(config.device, config.amp)
    model, info, trained = load_stcl(Path(config.model))
    memory = trained.guidance if config.memory is None else config.memory
    if config.memory and model.memory is None:
        raise StclError(f"--memory {config.memory}: {config.model} was trained without a memory; leave it out")
    if config.compile:
        compile_blocks(model, runtime.device)
    presence = _presence(config, memory, model)
    usual = _in_words(presence, model)
    photos, skipped = list_photos(config.images, config.list)
    given: dict[str, tuple[int, ...]] = {}
    if config.labels:
        given, unlabelled = labels_of(photos, config.labels, info.classes, config.labels_format, config.images)
        skipped = skipped + [(photo.name, f"no label in {config.labels}") for photo in unlabelled]
    asked = {name: [info.classes[label] for label in labels] for name, labels in given.items()}
    folder, shard = open_folder(config, "cam", info.classes, asked or None)
    if not config.labels:
        say(f"without --labels: a class counts as shown from a probability of {usual} (--threshold)")
    failures = Failures(folder, shard)
    if asked:
        add_photo_labels(folder, asked)
    mine = shard.mine
    skipped = [(name, reason) for name, reason in skipped if mine(name)]
    skip(failures, skipped)
    network = Network(model, runtime)
    wanted = [photo for photo in photos if mine(photo.name) and (not config.labels or photo.name in given)]
    todo = [photo for photo in wanted if not os.path.isfile(output_path(folder, photo.name, ".safetensors"))]

    def read(photo: Photo) -> np.ndarray:
        return read_photo(photo.path, trained.max_side)

    def compute(photos: list[Photo], pixels: list[np.ndarray]) -> list[_Found | PhotoError]:
        labels = [given.get(photo.name) for photo in photos]
        inputs = list(zip(pixels, labels, strict=True))
        return network.compute(partial(_find, config, memory, presence), inputs, [photo.path for photo in photos])

    def write(photo: Photo, found: _Found) -> dict[str, Any]:
        probability = found.probability_C()
        file = CamFile(
            classes=info.classes,
            labels=found.labels,
            cam_KHW=found.cam_Khw(),
            size=photo_size(photo.path),
            source="given" if config.labels else "predicted",
            scores=tuple(probability[list(found.labels)].tolist()),
            affinity_hwJ=found.affinity_hwJ and found.affinity_hwJ(),
        )
        path = output_path(folder, photo.name, ".safetensors")
        write_cam(path, file)
        names = [info.classes[label] for label in file.labels]
        return {"image": photo.name, "output": path, "classes": names, "source": file.source}

    size = partial(network_size, multiple=model.backbone.patch_size)
    work = Pipeline(read, compute, write, size, trained.max_side)
    outcomes = Outcomes(failures, done)
    with meter("cam", len(wanted), len(wanted) - len(todo)) as gauge:
        for photo, outcome in work.run(todo, runtime.device, config.workers):
            outcomes.add(photo, outcome)
            gauge.advance()
    if outcomes.made and outcomes.made == outcomes.without_class and not config.labels:
        warn(f"no class of any photo reaches --threshold {usual}: lower it, or train longer")
    then = ("refine", folder, "--images", config.images, "-o", "MASKS")
    return finish(folder, outcomes, len(wanted) + len(skipped), "CAM", then)


class _Presence(NamedTuple):
    """How it is found out which classes a photo shows."""

    by_memory: bool  # not by the classifier alone
    threshold: float | None  # the probability from which a class counts as shown; None: each has its own


def _presence(config: CamConfig, memory: float, model: Stcl) -> _Presence:
    known = bool(memory and model.threshold.any() and not config.labels)
    return _Presence(known, (None if known else UNSURE) if config.threshold is None else config.threshold)


def _in_words(presence: _Presence, model: Stcl) -> str:
    if presence.threshold is not None:
        return f"{presence.threshold:g}"
    lowest, highest = (f"{float(value):.3g}" for value in model.threshold.aminmax())
    return lowest if lowest == highest else f"{lowest} to {highest}"


class _Found(NamedTuple):
    labels: tuple[int, ...]
    cam_Khw: Callable[[], np.ndarray]  # waits for a GPU
    probability_C: Callable[[], np.ndarray]
    affinity_hwJ: Callable[[], np.ndarray] | None


def _find(
    config: CamConfig,
    memory: float,
    presence: _Presence,
    model: Stcl,
    runtime: Runtime,
    inputs: list[tuple[np.ndarray, tuple[int, ...] | None]],
) -> list[_Found]:
    """What the network says of (photo, labels); without labels they are predicted."""
    photos = [pixels for pixels, _ in inputs]
    cams = photo_cams(model, runtime, photos, config.scales)
    affinities = map(fetch, photo_affinities(model, runtime, photos)) if config.affinity else [None] * len(photos)
    probabilities = label_probabilities(cams, model.memory if presence.by_memory else None)
    least = model.threshold if presence.threshold is None else presence.threshold
    labels = [
        tuple((probability_C >= least).nonzero().flatten().tolist()) if given is None else given
        for probability_C, (_, given) in zip(probabilities, inputs, strict=True)
    ]
    maps = map(fetch, label_maps(cams, labels, model.memory, memory))
    return [_Found(*of_photo) for of_photo in zip(labels, maps, map(fetch, probabilities), affinities, strict=True)]
