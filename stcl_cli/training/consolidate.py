"""At the end of a training the memory bank is made anew, from whole photos and the finished network's maps (ours).

In training it sees random crops, some of them without the object that the photo's label names, by the eyes of networks
that knew less. What it has learned from them is good enough to say where the objects of whole photos are; that is what
it then keeps. And what it then says of a patch is no longer how near the prototypes are: the tokens of all sure regions
tell the classes apart better (`discriminants.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from stcl_cli.config import TrainConfig
from stcl_cli.discriminants import learn_discriminants
from stcl_cli.memory import (
    discriminants_of,
    fuse,
    memory_maps,
    region_masks,
    region_of_patches,
)
from stcl_cli.presence import BINS, best_thresholds, count_probabilities
from stcl_cli.runtime.device import Runtime
from stcl_cli.runtime.distributed import all_gather_rows, rank, ranks, sum_over_ranks
from stcl_cli.training.regions import Labelled, Sample, no_entries, probabilities_of_photos, regions_of_photos
from stcl_models.memory_bank import Entries, MemoryBank
from stcl_models.stcl import Stcl

CHUNK = 32  # photos whose regions are stored together
SAMPLE = 2**17  # tokens of all photos that are looked at again, which bounds memory
SEEN = 512  # so many photos are enough to find thresholds


def consolidate(
    model: Stcl, config: TrainConfig, runtime: Runtime, labelled: Labelled, tell: Callable[[str], None]
) -> list[tuple[str, str]]:
    """Fill the model's memory bank anew, and find the thresholds, on all ranks alike.

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
    samples, tokens = [], max(1, SAMPLE // len(chosen))
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
    model.threshold.copy_(find_thresholds(model, config, runtime, labelled, tell))
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


def find_thresholds(
    model: Stcl, config: TrainConfig, runtime: Runtime, labelled: Labelled, tell: Callable[[str], None]
) -> Tensor:
    """The probability from which each class is best taken for shown (C), in photos evenly over the list."""
    indices = range(0, len(labelled), -(-len(labelled) // SEEN))
    mine = indices[rank() :: ranks()]
    device = model.threshold.device
    counts_2CB = torch.zeros(2, len(model.threshold), BINS, dtype=torch.long, device=device)
    with closing(probabilities_of_photos(model, config, runtime, labelled, mine)) as found:
        for number, (index, probability_C) in enumerate(zip(mine, found, strict=True)):
            if number % CHUNK == 0:
                tell(f"finding thresholds {number}/{len(mine)}")
            if probability_C is not None:
                labels_K = torch.tensor(labelled[index][1], dtype=torch.long, device=device)
                counts_2CB += count_probabilities(probability_C, labels_K)
    return best_thresholds(sum_over_ranks(counts_2CB))
