"""At the end of a training the memory bank is made anew, from whole photos and the finished network's maps (ours).

In training it sees random crops, some of them without the object that the photo's label names, by the eyes of networks
that knew less. What it has learned from them is good enough to say where the objects of whole photos are; that is what
it then keeps. And what it then says of a patch is no longer how near the prototypes are: the tokens of all sure regions
tell the classes apart better (`discriminants.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stcl_cli.config import TrainConfig
from stcl_cli.data.photos import Photo
from stcl_cli.data.pixels import read_photo
from stcl_cli.discriminants import learn_discriminants
from stcl_cli.errors import PhotoError
from stcl_cli.inference import PhotoCams, label_maps, network_size, photo_cams
from stcl_cli.memory import (
    LEAST_PATCHES,
    discriminants_of,
    fuse,
    memory_maps,
    region_embeddings,
    region_masks,
    region_of_patches,
    region_quality,
)
from stcl_cli.runtime.device import Runtime, upload
from stcl_cli.runtime.distributed import all_gather_rows, rank, ranks
from stcl_cli.runtime.out_of_memory import Network
from stcl_cli.runtime.pipeline import Pipeline
from stcl_models.memory_bank import Entries, MemoryBank
from stcl_models.stcl import Stcl, resize

CHUNK = 32  # photos whose regions are stored together
SAMPLE = 2**17  # tokens of all photos that are looked at again, which bounds memory

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


def consolidate(
    model: Stcl, config: TrainConfig, runtime: Runtime, labelled: Labelled, tell: Callable[[str], None]
) -> list[tuple[str, str]]:
    """Fill the model's memory bank anew, on all ranks alike.

    Gives (name, reason) of this rank's photos that cannot be read, or that there is too little memory for.

    A class that no sure region is found of keeps its slots; one without a sure token has its CAM alone for a map.
    """
    old, new = model.memory, model.memory.empty()
    chosen = choose(labelled, new.embedding.shape[1])
    if not chosen:
        return []
    chunks = [chosen[first : first + CHUNK] for first in range(0, len(chosen), CHUNK)]
    shares = [np.array_split(chunk, ranks())[rank()] for chunk in chunks]  # gathered, they are in order again
    mine = [int(index) for share in shares for index in share]
    failed: list[tuple[str, str]] = []
    samples, tokens = [], max(1, SAMPLE // max(1, len(chosen)))
    with closing(regions_of_photos(model, config, runtime, labelled, mine, tokens)) as found:
        for number, share in enumerate(shares):
            tell(f"consolidating the memory {number * CHUNK}/{len(chosen)}")
            own = list(islice(found, len(share)))
            failed += [
                (labelled[index][0].name, str(one.failed)) for index, one in zip(share, own, strict=True) if one.failed
            ]
            rows = [torch.cat(column) for column in zip(no_entries(old), *(one.entries for one in own), strict=True)]
            places = np.searchsorted(chosen, share).tolist()
            samples += [(place, one.sample) for place, one in zip(places, own, strict=True) if one.sample]
            # All alike in age, but where the oldest slot goes first.
            step = config.iterations + (0 if new.adaptive else number)
            new.update(Entries(*all_gather_rows(*rows)), step)
    found_C = new.stored > 0
    for before, after in zip(old.buffers(), new.buffers(), strict=True):
        before[found_C] = after[found_C]
    old.read_by_prototypes()  # the new ones
    labels_PK = pad_sequence([torch.tensor(labelled[index][1]) + 1 for index in chosen], batch_first=True)
    tokens = look_again(old, samples, config)
    old.read_by(*learn_discriminants(*tokens, labels_PK.to(old.photo.device), len(old.prototype)))
    model.train()
    return failed


def choose(labelled: Labelled, most: int) -> list[int]:
    """Which photos, evenly over the list: as many of each class as it has slots, or all that show it."""
    photos_of_class: dict[int, list[int]] = {}
    for index, (_, classes) in enumerate(labelled):
        for label in classes:
            photos_of_class.setdefault(label, []).append(index)
    chosen: set[int] = set()
    for indices in photos_of_class.values():
        step = max(1.0, len(indices) / most)
        chosen.update(indices[int(number * step)] for number in range(min(most, len(indices))))
    return sorted(chosen)


def look_again(
    bank: MemoryBank, samples: Sequence[tuple[int, Sample]], config: TrainConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (S,E) of all ranks' samples, the class of those that are sure by CAMs and prototypes, else -1, and the
    number that each sample comes with."""
    none = bank.photo.new_zeros(0)
    keys, classes, numbers = [bank.prototype[:0].half()], [none], [none]
    view = bank.view()
    for number, (key_SE, cam_KS, slots_1K) in samples:
        score_1R1S = (discriminants_of(view, slots_1K) @ key_SE.float().t())[:, :, None]
        remembered, trust = memory_maps(score_1R1S, view, slots_1K)
        maps_1K1S = fuse(cam_KS[None, :, None], remembered, trust, config.guidance)
        valid = torch.ones_like(maps_1K1S[:, 0], dtype=torch.bool)
        masks, classes_1R = region_masks(maps_1K1S, slots_1K, valid, config.beta_low, config.beta_high)
        keys.append(key_SE)
        classes.append(region_of_patches(masks, classes_1R)[0])
        numbers.append(torch.full_like(classes[-1], number))
    return all_gather_rows(*map(torch.cat, (keys, classes, numbers)))


def no_entries(bank: MemoryBank) -> Entries:
    none = bank.photo.new_zeros(0)
    return Entries(bank.prototype[:0], none, bank.quality.new_zeros(0), none)


def regions_of_photos(
    model: Stcl, config: TrainConfig, runtime: Runtime, labelled: Labelled, indices: Sequence[int], tokens: int
) -> Iterator[Found]:
    """What each of the photos at `indices` leaves in the memory, in their order, with at most `tokens` as a sample."""
    number = {labelled[index][0].name: index for index in indices}
    network = Network(model, runtime)

    def read(photo: Photo) -> np.ndarray:
        return read_photo(photo.path, config.max_side)

    def compute(photos: list[Photo], pixels: list[np.ndarray]) -> list[Found | PhotoError]:
        inputs = [(number[photo.name], image) for photo, image in zip(photos, pixels, strict=True)]
        return network.compute(partial(_regions, config, labelled, tokens), inputs, [photo.path for photo in photos])

    def keep(photo: Photo, found: Found) -> Found:
        return found

    size = partial(network_size, multiple=model.backbone.patch_size)
    work = Pipeline(read, compute, keep, size, config.max_side)
    for _, outcome in work.run([labelled[index][0] for index in indices], runtime.device):
        if isinstance(outcome, PhotoError):
            yield Found(no_entries(model.memory), None, outcome)
            continue
        # A large photo's are the CPU's.
        entries, sample = (type(rows)(*(rows_of.to(runtime.device) for rows_of in rows)) for rows in outcome[:2])
        yield Found(entries, sample)


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
