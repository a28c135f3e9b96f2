"""What an output folder was made from: a resumed run goes on with the same, and none deletes what it needs itself."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from stcl_cli.config import Folder, RunConfig
from stcl_cli.errors import StclError
from stcl_cli.formats.checksum import checksum
from stcl_cli.formats.classes import CLASSES, read_classes
from stcl_cli.formats.files import to_json
from stcl_cli.formats.photo_labels import PhotoLabels
from stcl_cli.formats.runs import CONFIG, made_by_stcl, read_config, read_sources
from stcl_cli.wording import shown, some

# Fields that say where or how fast a run goes, not what comes out of it: they may change when it is resumed.
FREE_ON_RESUME = {
    *("resume", "overwrite", "output", "overlays"),
    *("device", "workers", "save_every", "log_every", "checkpointing", "compile"),
}


def sources_of(config: Folder | RunConfig, labels: PhotoLabels | None = None) -> dict[str, str]:
    """A check value of each folder of stcl that is an input, by the option's name, and of the labels.

    It is one of how that folder was made, not of its files: of the options that matter, of its own sources, and of how
    far a training was that has not ended.
    """
    sources = {}
    for name, path in _inputs(config):
        # A run may also be named by RUN/checkpoints/NAME.safetensors.
        folder = path.parent.parent if path.parent.name == "checkpoints" else path
        if made_by_stcl(folder):
            sources[name] = _made_how(folder) + _how_far(folder, path)
    return sources if labels is None else sources | {"labels": checksum(to_json(labels), {})}


def check_overwrite(folder: Path, command: str, config: Folder | RunConfig) -> None:
    """StclError if emptying `folder` would delete an input, or what another command made."""
    if made_by_stcl(folder):
        read_config(folder, command)
    for _, path in _inputs(config):
        if path.resolve().is_relative_to(folder.resolve()):
            raise StclError(
                f"{shown(path)}: --overwrite would delete this input, with all in {shown(folder)}; choose another -o"
            )


def check_overlays(overlays: Path, folder: Path, command: str) -> None:
    """StclError if `overlays` was made by another command, or with other masks than those in `folder`."""
    if not made_by_stcl(overlays):
        return
    of = read_config(overlays, command)[1]
    masks = read_config(folder)[1] if made_by_stcl(folder) else {}
    compared = {*of, *masks} - FREE_ON_RESUME | {"output"}
    if any(of.get(name) != masks.get(name) for name in compared):
        raise StclError(
            f"{shown(overlays)}: holds what another run has made, with -o {shown(str(of.get('output')))}; give another "
            "folder with --overlays"
        )


def check_same(folder: Path, command: str, values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """StclError if `folder` was begun by another command, with other options, or from other folders of stcl."""
    before, made_from = read_config(folder, command)[1], _folders_of(folder)
    same = {name for name, value in made_from.items() if sources.get(name) == value}  # by whatever path
    for name, value in json.loads(to_json(values)).items():
        old = before.get(name)
        if name not in FREE_ON_RESUME | same and old != value:
            cure = f"go on with --config {shlex.quote(shown(folder))}"
            paths = name not in made_from and isinstance(old, str) and isinstance(value, str)
            if paths and Path(value).exists() and not Path(old).exists():
                link = f"ln -s {shlex.quote(shown(os.path.abspath(value)))} {shlex.quote(shown(old))}"
                cure = f"if that has moved, give it its old name too ({link}) and go on with that"
            raise StclError(
                f"{shown(folder / CONFIG)}: was started with {name} = {old}, not {value}; {cure}, do it anew with "
                "--overwrite, or give another -o"
            )
    for name in made_from:
        if name not in same:
            raise StclError(
                f"{shown(folder)}: was begun with another {shown(str(values.get(name)))}, which has been made anew "
                "or trained on since; do it anew too with --overwrite, or give another -o"
            )


def check_classes(folder: Path, classes: tuple[str, ...]) -> None:
    """StclError if `folder` was begun with other classes."""
    before = read_classes(folder / CLASSES) if (folder / CLASSES).is_file() else ()
    if before and classes and before != classes:
        new = [name for name in classes if name not in before]
        gone = [name for name in before if name not in classes]
        what = f"without {some(new)}" if new else f"with {some(gone)}" if gone else "in another order"
        raise StclError(
            f"{shown(folder)}: was begun with other classes ({what}); go on with those, do it anew with --overwrite, "
            "or give another -o"
        )


def _inputs(config: Folder | RunConfig) -> Iterator[tuple[str, Path]]:
    """(option's name, path) of what the command reads."""
    for field in fields(config):
        value = getattr(config, field.name)
        is_path = field.metadata.get("path") and field.name not in ("output", "overlays")
        if is_path and value not in (None, "-"):
            yield field.name, Path(value)


def _made_how(folder: Path) -> str:
    command, values = read_config(folder)
    lasting = {name: value for name, value in values.items() if name not in FREE_ON_RESUME | _folders_of(folder).keys()}
    return checksum(to_json([command, lasting, read_sources(folder)]), {})


def _folders_of(folder: Path) -> dict[str, str]:
    """The check values of the folders of stcl that it was made from, which may since be called otherwise.

    Labels, of which there is one too, are compared photo by photo.
    """
    return {name: value for name, value in read_sources(folder).items() if name != "labels"}


def _how_far(folder: Path, path: Path) -> str:
    """`@ITERATION` of a training's checkpoint that is not of its last one; else nothing."""
    command, values = read_config(folder)
    if command not in ("train", "segtrain"):
        return ""
    from stcl_cli.formats.checkpoints import open_checkpoint  # torch, which `stcl check` starts without

    try:
        iteration = open_checkpoint(path, command).info.iteration
    except StclError:  # who needs it says so
        return ""
    return "" if iteration == values.get("iterations") else f"@{iteration}"
