"""What the memory bank in a run's checkpoint remembers of each class: which photos, and how good. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from stcl_cli.errors import StclError
from stcl_cli.formats.photo_labels import PHOTOS, read_photo_labels
from stcl_cli.wording import shown


class Memory(NamedTuple):
    """The filled slots of one class, best first."""

    photos: list[str]
    qualities: list[float]


def read_memories(folder: str | os.PathLike[str]) -> list[Memory]:
    """Of background and every class of the run, in their order; empty where there is no memory bank.

    Raises:
        StclError: the checkpoint or the list of photos is damaged, or they are not of one run.
    """
    path = Path(folder, "checkpoints", "last.safetensors")
    labels = read_photo_labels(Path(folder))
    if not path.is_file() or labels is None:
        return []
    names = list(labels)
    try:
        with safe_open(path, "np") as file:
            if "model.memory.photo" not in file.keys():  # noqa: SIM118 - not iterable itself
                return []
            photo_CM, quality_CM = (file.get_tensor(f"model.memory.{name}") for name in ("photo", "quality"))
        return [_best_first(photo_M, quality_M, names) for photo_M, quality_M in zip(photo_CM, quality_CM, strict=True)]
    except (OSError, SafetensorError, KeyError, IndexError, TypeError, ValueError) as error:
        raise StclError(f"{shown(path)}: its memory bank does not fit {PHOTOS}, or is damaged; train again") from error


def _best_first(photo_M: np.ndarray, quality_M: np.ndarray, names: list[str]) -> Memory:
    filled = np.flatnonzero(photo_M >= 0)
    order = filled[np.argsort(-quality_M[filled], kind="stable")]
    return Memory([str(names[photo]) for photo in photo_M[order]], quality_M[order].tolist())
