"""What whole photos say at the end of a training: sure regions and tokens for the memory, and what they show (ours)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from stcl_cli.config import TrainConfig
from stcl_cli.data.photos import Photo
from stcl_cli.data.pixels import read_photo
from stcl_cli.errors import PhotoError
from stcl_cli.inference import PhotoCams, label_maps, label_probabilities, network_size, photo_cams
from stcl_cli.memory import LEAST_PATCHES, region_embeddings, region_masks, region_quality
from stcl_cli.runtime.device import Runtime, upload
from stcl_cli.runtime.out_of_memory import Network
from stcl_cli.runtime.pipeline import Pipeline
from stcl_models.memory_bank import Entries, MemoryBank
from stcl_models.stcl import Stcl, resize

Result = TypeVar("Result")
Labelled = Sequence[tuple[Photo, tuple[int, ...]]]  # photos and the classes that each shows, from 0


class Sample(NamedTuple):
    """Some tokens of a photo, evenly over it, and its labels' CAMs there."""

    key_SE: Tensor  # float16
    cam_KS: Tensor
    slots_1K: Tensor


class Found(NamedTuple):
    """The sure regions of a photo, and a sample; or why there are none."""

    entries: Entries
    sample: Sample | None
    failed: PhotoError | None = None


def no_entries(bank: MemoryBank) -> Entries:
    none = bank.photo.new_zeros(0)
    return Entries(bank.prototype[:0], none, bank.quality.new_zeros(0), none)


def regions_of_photos(
    model: Stcl, config: TrainConfig, runtime: Runtime, labelled: Labelled, indices: Sequence[int], tokens: int
) -> Iterator[Found]:
    """What each of the photos at `indices` leaves in the memory, in their order, with at most `tokens` as a sample."""
    work = partial(_regions, config, labelled, tokens)
    for found in _of_each_photo(model, config, runtime, labelled, indices, work):
        if isinstance(found, PhotoError):
            yield Found(no_entries(model.memory), None, found)
            continue
        # A large photo's are the CPU's.
        yield Found(*(type(rows)(*(rows_of.to(runtime.device) for rows_of in rows)) for rows in found[:2]))


def probabilities_of_photos(
    model: Stcl, config: TrainConfig, runtime: Runtime, labelled: Labelled, indices: Sequence[int]
) -> Iterator[Tensor | None]:
    """How probable `stcl cam` would find each class in each of the photos at `indices` (C); None: it cannot be used."""

    def work(model: Stcl, runtime: Runtime, inputs: list[tuple[int, np.ndarray]]) -> list[Tensor]:
        cams = photo_cams(model, runtime, [pixels for _, pixels in inputs], config.cam_scales)
        return label_probabilities(cams, model.memory)

    for found in _of_each_photo(model, config, runtime, labelled, indices, work):
        yield None if isinstance(found, PhotoError) else found.to(runtime.device)


def _of_each_photo(
    model: Stcl,
    config: TrainConfig,
    runtime: Runtime,
    labelled: Labelled,
    indices: Sequence[int],
    work: Callable[[Stcl, Runtime, list[tuple[int, np.ndarray]]], list[Result]],
) -> Iterator[Result | PhotoError]:
    """work(model, runtime, [(index, photo)]) of the photos at `indices`, in their order, some of one size at a time."""
    number = {labelled[index][0].name: index for index in indices}
    network = Network(model, runtime)

    def read(photo: Photo) -> np.ndarray:
        return read_photo(photo.path, config.max_side)

    def compute(photos: list[Photo], pixels: list[np.ndarray]) -> list[Result | PhotoError]:
        inputs = [(number[photo.name], image) for photo, image in zip(photos, pixels, strict=True)]
        return network.compute(work, inputs, [photo.path for photo in photos])

    def keep(photo: Photo, found: Result) -> Result:
        return found

    size = partial(network_size, multiple=model.backbone.patch_size)
    pipeline = Pipeline(read, compute, keep, size, config.max_side)
    for _, outcome in pipeline.run([labelled[index][0] for index in indices], runtime.device):
        yield outcome


@torch.inference_mode()
def _regions(
    config: TrainConfig,
    labelled: Labelled,
    tokens: int,
    model: Stcl,
    runtime: Runtime,
    inputs: list[tuple[int, np.ndarray]],
) -> list[Found]:
    """Of photos of one size and their places in the list."""
    cams = photo_cams(model, runtime, [pixels for _, pixels in inputs], config.cam_scales)
    labels = [labelled[index][1] for index, _ in inputs]
    plain, maps = (label_maps(cams, labels, model.memory, guidance) for guidance in (0.0, config.guidance))
    return [
        Found(regions_of(cam, guided, own, config, model.memory, index), sample_of(cam, unguided, own, tokens, index))
        for cam, unguided, guided, own, (index, _) in zip(cams, plain, maps, labels, inputs, strict=True)
    ]


def sample_of(cams: PhotoCams, plain_Khw: Tensor, labels: tuple[int, ...], tokens: int, number: int) -> Sample:
    """At most so many tokens of a photo, the `number`-th of its list."""
    index = upload(spread(len(cams.key_ND), tokens, number), plain_Khw.device)
    cam_KN = resize(plain_Khw[None], cams.key_grid)[0].flatten(1)
    slots_1K = upload(torch.tensor([labels]), plain_Khw.device)
    return Sample(cams.key_ND[index].half(), cam_KN[:, index].float(), slots_1K)


def spread(count: int, most: int, number: int) -> Tensor:
    """At most so many of `count` places in rows, evenly over rows and columns; others for the next `number`.

    In steps of a golden section of all, which has no factor with their count: so no place comes twice, and steps of
    whole rows, which would stay in one column, are not among them.
    """
    if most >= count:
        return torch.arange(count)
    step = next(step for step in range(round(0.618 * count), 2 * count) if math.gcd(step, count) == 1)
    return (torch.arange(number * most, (number + 1) * most) * step % count).sort().values


def regions_of(
    cams: PhotoCams, maps_Khw: Tensor, labels: tuple[int, ...], config: TrainConfig, bank: MemoryBank, index: int
) -> Entries:
    """The sure regions of a photo by the maps that `stcl cam` would write."""
    maps = resize(maps_Khw[None], cams.key_grid)
    slots = upload(torch.tensor([labels]), maps.device)
    valid = torch.ones(1, *cams.key_grid, dtype=torch.bool, device=maps.device)
    masks, classes = region_masks(maps, slots, valid, config.beta_low, config.beta_high)
    embedding = region_embeddings(cams.key_ND[None], masks, bank.prototype[0])[0]
    # The label is given, so how sure the classifier is of it does not count here: a class of two photos is kept too.
    quality = region_quality(maps, masks, torch.ones(1, len(labels), device=maps.device))[0]
    real = (masks[0].sum(1) >= LEAST_PATCHES).nonzero()[:, 0]  # counted once: a GPU is waited for each time
    return Entries(embedding[real], classes[0][real], quality[real], torch.full_like(classes[0][real], index))
