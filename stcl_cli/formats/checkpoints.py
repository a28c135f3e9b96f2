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
from stcl_cli.formats.checksum import checksum
from stcl_cli.formats.classes import check_classes
from stcl_cli.formats.files import atomic_write, check_readable, utf8_path
from stcl_cli.wording import shown

FORMAT = 1
_SLOTS = {"step", "exp_avg", "exp_avg_sq"}  # of AdamW


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself."""

    stage: str  # 'train' or 'segtrain'
    iteration: int  # optimiser steps done
    classes: tuple[str, ...]  # foreground classes
    config: dict[str, Any]  # the run's config
    ranks: int = 1  # processes that trained together

    def __post_init__(self) -> None:
        """TypeError if a stranger's header holds something else than the fields say."""
        texts = (self.stage, *self.classes, *self.config)
        if not (isinstance(self.config, dict) and all(isinstance(text, str) for text in texts)):
            raise TypeError("texts are no texts")
        if not (type(self.iteration) is type(self.ranks) is int and self.iteration >= 0 and self.ranks > 0):
            raise TypeError("counts are no counts")


class Checkpoint:
    """An opened checkpoint; tensors are read when asked for."""

    def __init__(self, path: Path, info: CheckpointInfo, names: list[str], checks: dict[str, str]) -> None:
        self.path, self.info, self._names, self._checks = path, info, names, checks

    def load_model(self, model: nn.Module) -> None:
        """Strictly. StclError if the weights are of another network."""
        state = self._read("model.")
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            reason = textwrap.shorten(str(error).partition("\n")[2] or str(error), 160)  # it may name every parameter
            raise StclError(
                f"{shown(self.path)}: the weights do not fit the network its config describes ({reason}); "
                "copy or train it again"
            ) from error

    def load_optimizer(self, optimizer: torch.optim.Optimizer, names: list[str]) -> None:
        """AdamW's; `names`: the parameter names in its order. StclError if the state is of other parameters."""
        flat = self._read("optimizer.")
        state: dict[int, dict[str, Tensor]] = {}
        index = {name: number for number, name in enumerate(names)}
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for key, value in flat.items():
            name, _, slot = key.rpartition(".")
            fits = name in index and slot in _SLOTS
            if not fits or value.shape != (() if slot == "step" else parameters[index[name]].shape):
                raise StclError(
                    f"{shown(self.path)}: the optimiser is of another network ({shown(key)[:80]}); train anew"
                )
            state.setdefault(index[name], {})[slot] = value
        if any(slots.keys() != _SLOTS for slots in state.values()):
            raise StclError(f"{shown(self.path)}: the optimiser's state is not whole; train anew")
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

    def _read(self, prefix: str) -> dict[str, Tensor]:
        try:
            with utf8_path(self.path) as readable, safe_open(readable, "pt") as file:
                tensors = {k[len(prefix) :]: file.get_tensor(k) for k in self._names if k.startswith(prefix)}
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise StclError(f"{shown(self.path)}: its tensors cannot be read; copy or train it again") from error
        if self._checks and self._checks.get(prefix) != checksum(_header(self.info), tensors):
            raise StclError(f"{shown(self.path)}: has changed since it was written; copy or train it again")
        return tensors


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
    checks = {
        prefix: checksum(_header(info), {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        for prefix in ("model.", "optimizer.")
    }
    header = {"format": FORMAT, **asdict(info), "crc32": checks}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(tensors, {"stcl": json.dumps(header)}))  # in ASCII: paths may not be UTF-8


def _header(info: CheckpointInfo) -> str:
    return json.dumps(asdict(info), sort_keys=True)


def last_checkpoint(folder: Path) -> Path:
    """Where a run folder has, or will have, the checkpoint that a resumed training goes on from."""
    return folder / "checkpoints" / "last.safetensors"


def find_checkpoint(path: Path) -> Path:
    """A checkpoint file itself, or a run folder's best (where it was measured) or last."""
    if path.is_file():
        return path
    for name in ("best", "last"):
        file = path / "checkpoints" / f"{name}.safetensors"
        if file.is_file():
            return file
    raise StclError(
        f"{shown(path)}: no checkpoint there (looked for checkpoints/last.safetensors); "
        "train first, or name a run folder"
    )


def open_checkpoint(path: Path, stage: str) -> Checkpoint:
    """Read the header. StclError if the file is no checkpoint of `stage`."""
    path = find_checkpoint(path)
    check_readable(path)
    try:
        with utf8_path(path) as readable, safe_open(readable, "pt") as file:
            meta = json.loads((file.metadata() or {})["stcl"])
            names = list(file.keys())
        if (version := meta.pop("format")) != FORMAT:
            raise StclError(
                f"{shown(path)}: checkpoint format {version}, this stcl reads {FORMAT}; install the stcl that wrote it"
            )
        checks = dict(meta.pop("crc32", {}))  # those of other tools may do without
        info = CheckpointInfo(**meta | {"classes": check_classes(meta["classes"], shown(path))})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise StclError(f"{shown(path)}: not a checkpoint of stcl, or cut short; copy or train it again") from error
    if info.stage != stage:
        raise StclError(
            f"{shown(path)}: a checkpoint of stcl {shown(info.stage)}, but one of stcl {stage} is needed; "
            "name another folder"
        )
    return Checkpoint(path, info, names, checks)
