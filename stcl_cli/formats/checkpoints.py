"""Checkpoints: one safetensors file with the model, what it is, and (for resuming) the optimiser.

Tensors are named `model.NAME` and `optimizer.PARAMETER.STATE`; the metadata is one JSON object under the key `stcl`.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from stcl_cli.errors import StclError
from stcl_cli.formats.files import atomic_write

FORMAT = 1


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself."""

    stage: str  # 'train' or 'segtrain'
    iteration: int  # optimiser steps done
    classes: tuple[str, ...]  # foreground classes
    config: dict[str, Any]  # the run's config
    ranks: int = 1  # processes that trained together


class Checkpoint:
    """An opened checkpoint; tensors are read when asked for."""

    def __init__(self, path: Path, info: CheckpointInfo, names: list[str]) -> None:
        self.path, self.info, self._names = path, info, names

    def load_model(self, model: nn.Module) -> None:
        """Strictly. StclError if the weights are of another network."""
        state = self._read("model.")
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            reason = textwrap.shorten(str(error).partition("\n")[2] or str(error), 160)  # it may name every parameter
            raise StclError(
                f"{self.path}: the weights do not fit the network its config describes ({reason})"
            ) from error

    def load_optimizer(self, optimizer: torch.optim.Optimizer, names: list[str]) -> None:
        """`names`: the parameter names in the optimiser's order."""
        flat = self._read("optimizer.")
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in flat.items():
            name, _, slot = key.rpartition(".")
            state.setdefault(names.index(name), {})[slot] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def _read(self, prefix: str) -> dict[str, Tensor]:
        with safe_open(self.path, "pt") as file:
            return {k[len(prefix) :]: file.get_tensor(k) for k in self._names if k.startswith(prefix)}


def save_checkpoint(
    path: Path,
    model: nn.Module,
    info: CheckpointInfo,
    optimizer: torch.optim.Optimizer | None = None,
    names: list[str] | None = None,
) -> None:
    """Whole or not at all. With an optimiser the run can be resumed from it."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    if optimizer is not None:
        for index, slots in optimizer.state_dict()["state"].items():
            for slot, value in slots.items():
                tensors[f"optimizer.{names[index]}.{slot}"] = torch.as_tensor(value)
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    metadata = {"stcl": json.dumps({"format": FORMAT, **asdict(info)}, ensure_ascii=False)}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))


def find_checkpoint(path: Path) -> Path:
    """A checkpoint file itself, or a run folder's best (where it was measured) or last."""
    if path.is_file():
        return path
    for name in ("best", "last"):
        file = path / "checkpoints" / f"{name}.safetensors"
        if file.is_file():
            return file
    raise StclError(
        f"{path}: no checkpoint there (looked for checkpoints/last.safetensors); train first, or name a run folder"
    )


def open_checkpoint(path: Path, stage: str) -> Checkpoint:
    """Read the header. StclError if the file is no checkpoint of `stage`."""
    path = find_checkpoint(path)
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads((file.metadata() or {})["stcl"])
            names = list(file.keys())
        if (version := meta.pop("format")) != FORMAT:
            raise StclError(
                f"{path}: checkpoint format {version}, this stcl reads {FORMAT}; install the stcl that wrote it"
            )
        info = CheckpointInfo(**meta | {"classes": tuple(meta["classes"])})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StclError(f"{path}: not a checkpoint of stcl, or cut short; copy or train it again") from error
    if info.stage != stage:
        raise StclError(f"{path}: a checkpoint of `stcl {info.stage}`, but one of `stcl {stage}` is needed")
    return Checkpoint(path, info, names)
