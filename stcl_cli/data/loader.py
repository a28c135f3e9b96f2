"""Endless, repeatable batches of training views.

Every draw of the run has a number; photo, order, augmentation and the random numbers a photo brings for the losses
follow from (seed, draw). So batches do not depend on the number of worker processes, a resumed run goes on exactly
where it stopped, and several ranks see together what one process with their common batch sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stcl_cli.config import SegtrainConfig, TrainConfig
from stcl_cli.data.photo_masks import read_photo_mask
from stcl_cli.data.photos import Photo
from stcl_cli.data.pixels import read_photo
from stcl_cli.data.transforms import random_view
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats.locks import release_all
from stcl_cli.runtime.device import cores
from stcl_cli.runtime.distributed import rank, ranks
from stcl_cli.runtime.watch import Readers


class TrainingViews(Dataset):
    """Photos with a multi-hot label vector or with a mask. An item is asked for by (photo index, draw number)."""

    def __init__(
        self,
        photos: Sequence[Photo],
        config: TrainConfig | SegtrainConfig,
        mean_rgb: Tensor,
        *,
        labels: np.ndarray | None = None,
        masks: Sequence[Path] = (),
        classes: int = 254,
        uniforms: int = 0,
    ) -> None:
        """`uniforms`: how many random numbers in [0,1) each photo brings."""
        self.photos, self.labels, self.masks, self.classes, self.uniforms = photos, labels, masks, classes, uniforms
        self.crop_size, self.rescale = config.crop_size, config.rescale
        self.max_side, self.seed = config.max_side, config.seed
        self.padding_rgb = tuple(mean_rgb.flatten().round().int().tolist())  # 0 after normalisation

    def __getitem__(self, ticket: tuple[int, int]) -> dict[str, Any]:
        """photo uint8 3HW, box, uniform (U), and labels (C) or mask (HW), with the photo's name and the failures met.

        The next usable photo stands in for an unusable one.
        """
        index, draw = ticket
        failures = []
        for step in range(len(self.photos)):
            at = (index + step) % len(self.photos)
            try:
                return self._view(at, draw) | {"failures": failures}
            except PhotoError as error:
                failures.append((self.photos[at].name, str(error)))
        raise StclError(f"none of the {len(self.photos)} photos can be used; the first: {failures[0][1]}")

    def _view(self, index: int, draw: int) -> dict[str, Any]:
        photo = read_photo(self.photos[index].path, self.max_side)
        mask = None
        if self.masks:
            mask = read_photo_mask(self.masks[index], self.photos[index], photo.shape[:2], self.classes)
        rng = np.random.default_rng([self.seed, draw])
        view = random_view(photo, mask, rng, self.crop_size, self.rescale, self.padding_rgb)
        item = {
            "photo": torch.from_numpy(np.ascontiguousarray(view.photo_HW3.transpose(2, 0, 1))),
            "box": torch.tensor(view.box),
            "uniform": torch.from_numpy(rng.random(self.uniforms, np.float32)),
            "name": self.photos[index].name,
            "index": torch.tensor(index),
        }
        if self.labels is not None:
            item["labels"] = torch.from_numpy(self.labels[index])
        if view.mask_HW is not None:
            item["mask"] = torch.from_numpy(np.ascontiguousarray(view.mask_HW))
        return item


class EndlessOrder(Sampler):
    """This rank's (photo index, draw number) of some iterations: a new permutation an epoch, from (seed, epoch)."""

    def __init__(self, photos: int, seed: int, iterations: range, batch_size: int) -> None:
        self.photos, self.seed, self.iterations, self.batch_size = photos, seed, iterations, batch_size

    def __len__(self) -> int:
        return len(self.iterations) * self.batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = -1, None
        for iteration in self.iterations:
            start = (iteration * ranks() + rank()) * self.batch_size
            for draw in range(start, start + self.batch_size):
                if draw // self.photos != epoch:
                    epoch = draw // self.photos
                    order = np.random.default_rng([self.seed, 1, epoch]).permutation(self.photos)
                yield int(order[draw % self.photos]), draw


def training_batches(
    views: TrainingViews, config: TrainConfig | SegtrainConfig, device: torch.device
) -> Callable[[int, int], Iterator[dict[str, Any]]]:
    """(first, last iteration) -> their batches.

    Beside a GPU up to 8 processes read; on the CPU the network needs every core.
    """
    workers = config.workers
    if workers is None:
        workers = min(8, cores()) if device.type == "cuda" else 0

    def batches(first: int, last: int) -> Iterator[dict[str, Any]]:
        readers = Readers(workers)
        loader = DataLoader(
            views,
            batch_size=config.batch_size,
            sampler=EndlessOrder(len(views.photos), views.seed, range(first, last), config.batch_size),
            num_workers=workers,
            collate_fn=_collate,
            worker_init_fn=partial(_start_worker, readers),
            pin_memory=device.type == "cuda",
        )
        return readers.batches(loader)

    return batches


def _start_worker(readers: Readers, worker: int) -> None:
    """A process that only reads: no hold on the output folder, which it might outlive the run by."""
    readers.start(worker)
    release_all()


def _collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    batch = {key: torch.stack([item[key] for item in items]) for key in items[0] if key not in ("name", "failures")}
    failures = [failure for item in items for failure in item["failures"]]
    return batch | {"names": [item["name"] for item in items], "failures": failures}
