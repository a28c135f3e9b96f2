"""At the end of a training the memory bank is made anew, from whole photos and the finished network's maps (ours).

In training it sees random crops, some of them without the object that the photo's label names, by the eyes of networks
that knew less. What it has learned from them is good enough to say where the objects of whole photos are; that is what
it then keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from stcl_cli.config import TrainConfig
from stcl_cli.data.photos import Photo, read_photo
from stcl_cli.distributed import all_gather_rows, rank, ranks
from stcl_cli.errors import PhotoError
from stcl_cli.inference import label_maps, photo_cams
from stcl_cli.memory import LEAST_PATCHES, region_embeddings, region_masks, region_quality
from stcl_cli.runtime import Runtime
from stcl_cli.within_memory import if_it_fits
from stcl_models.memory_bank import Entries, MemoryBank
from stcl_models.stcl import Stcl, resize

CHUNK = 32  # photos whose regions are stored together

Labelled = Sequence[tuple[Photo, tuple[int, ...]]]  # photos and the classes that each shows, from 0


def consolidate(
    model: Stcl, config: TrainConfig, runtime: Runtime, labelled: Labelled, tell: Callable[[str], None]
) -> None:
    """Fill the model's memory bank anew, on all ranks alike. Photos that cannot be read, or that there is too little
    memory for, are passed over.

    A class that no sure region is found of keeps what it had.
    """
    model.eval()
    old, new = model.memory, model.memory.empty()
    chosen = choose(labelled, new.embedding.shape[1])
    for first in range(0, len(chosen), CHUNK):
        tell(f"consolidating the memory {first}/{len(chosen)}")
        mine = np.array_split(chosen[first : first + CHUNK], ranks())[rank()]  # gathered, they are in order again
        entries = [regions_of(model, config, runtime, int(index), *labelled[index]) for index in mine]
        rows = [torch.cat(column) for column in zip(no_entries(old), *entries, strict=True)]
        new.update(Entries(*(all_gather_rows(row) for row in rows)), config.iterations)
    found_C = new.stored > 0
    for before, after in zip(old.buffers(), new.buffers(), strict=True):
        before[found_C] = after[found_C]
    model.train()


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


def no_entries(bank: MemoryBank) -> Entries:
    none = bank.photo.new_zeros(0)
    return Entries(bank.prototype[:0], none, bank.quality.new_zeros(0), none)


@torch.inference_mode()
def regions_of(
    model: Stcl, config: TrainConfig, runtime: Runtime, index: int, photo: Photo, labels: tuple[int, ...]
) -> Entries:
    """What one photo leaves in the memory: its sure regions by the maps that `stcl cam` would write."""
    bank = model.memory
    try:
        pixels = read_photo(photo.path, config.max_side)
    except PhotoError:  # the loader names it if training meets it, and `stcl cam` will
        labels = ()
    if not labels:
        return no_entries(bank)
    found = if_it_fits(partial(photo_cams, model, runtime, [pixels], config.cam_scales))
    if found is None:
        return no_entries(bank)
    (cams,) = found
    maps = resize(label_maps([cams], [labels], bank, config.guidance)[0][None], cams.key_grid)
    slots = torch.tensor([labels], device=maps.device)
    valid = torch.ones(1, *cams.key_grid, dtype=torch.bool, device=maps.device)
    masks, classes = region_masks(maps, slots, valid, config.beta_low, config.beta_high)
    embedding = region_embeddings(cams.key_ND[None], masks, bank.prototype[0])[0]
    # The label is given, so how sure the classifier is of it does not count here: a class of two photos is kept too.
    quality = region_quality(maps, masks, torch.ones(1, len(labels), device=maps.device))[0]
    real = masks[0].sum(1) >= LEAST_PATCHES
    return Entries(embedding[real], classes[0][real], quality[real], torch.full_like(classes[0][real], index))
