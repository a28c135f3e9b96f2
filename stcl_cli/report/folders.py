"""Which output folders a report is about, and what they say of themselves."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from stcl_cli.data.outputs import has_files
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import CLASSES, read_classes
from stcl_cli.formats.runs import CONFIG, FAILED, made_by_stcl, read_config, read_failures, read_jsonl
from stcl_cli.wording import shown

# command -> (what it left, the suffix of its files a photo), in the order of the chain
KINDS = {
    "train": ("classification network", ""),
    "segtrain": ("segmentation model", ""),
    "cam": ("CAMs", ".safetensors"),
    "refine": ("masks from labels", ".png"),
    "predict": ("predictions", ".png"),
}
METRICS = "metrics.jsonl"


class Output(NamedTuple):
    """An output folder of one stage.

    Attributes:
        title: its name, or its whole path where another output folder has that name too.
        command: a key of KINDS.
        options: what its config.json holds.
        metrics: lines of metrics.jsonl that tell of an iteration.
        failures: (name, reason) of what failed.jsonl says was skipped.
    """

    path: Path
    title: str
    command: str
    options: dict[str, Any]
    classes: tuple[str, ...]
    metrics: list[dict[str, Any]]
    failures: list[tuple[str, str]]

    @property
    def what(self) -> str:
        return KINDS[self.command][0]

    @property
    def suffix(self) -> str:
        return KINDS[self.command][1]


def find_outputs(folders: Iterable[str | os.PathLike[str]]) -> list[Output]:
    """The output folders of stages that `folders` are or, as those of `stcl run`, hold; in the order of the chain.

    Raises:
        StclError: a folder is none and holds none, or they are about different classes.
    """
    found: dict[str, Output] = {}
    for folder in map(Path, folders):
        inside = [path for path in (folder, *_subfolders(folder)) if made_by_stcl(path)]
        ours = [path for path in inside if read_config(path)[0] in KINDS and not _is_overlays(path)]
        if folder in ours:
            ours = [folder]
        if not ours:
            _refuse(folder)
        found.update((os.path.realpath(path), _open(path)) for path in ours)
    outputs = sorted(found.values(), key=lambda output: list(KINDS).index(output.command))
    for output in outputs:
        if output.classes != outputs[0].classes:
            both = f"{shown(outputs[0].path)} and {shown(output.path)}"
            raise StclError(f"{both}: are about different classes; make a report of each")
    names = Counter(output.title for output in outputs)
    return [output if names[output.title] == 1 else output._replace(title=shown(output.path)) for output in outputs]


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(Path(entry.path) for entry in os.scandir(folder) if entry.is_dir())
    except OSError:  # the folder is not there or no folder: made_by_stcl said no, _refuse says why
        return []


def _is_overlays(folder: Path) -> bool:
    """--overlays of refine and predict leaves JPEGs beside a config.json of theirs."""
    suffix = KINDS[read_config(folder)[0]][1]
    return suffix == ".png" and not has_files(folder, ".png") and has_files(folder, ".jpg")


def _refuse(folder: Path) -> None:
    command, _ = read_config(folder)  # StclError where it is none of ours
    raise StclError(
        f"{shown(folder)}: was made by stcl {shown(command)} and holds nothing to report on; "
        f"give folders of stcl {', '.join(KINDS)} or run"
    )


def _open(folder: Path) -> Output:
    command, options = read_config(folder)
    classes = read_classes(folder / CLASSES)
    metrics = [record for record in read_jsonl(folder / METRICS) if _tells_when(record)]
    failures = list(read_failures(folder / FAILED).items())
    return Output(
        folder, shown(os.path.basename(os.path.abspath(folder))), command, options, classes, metrics, failures
    )


def _tells_when(record: dict[str, Any]) -> bool:
    iteration = record.get("iteration")
    return isinstance(iteration, int) and 0 <= iteration < 1e15


def images_of(outputs: list[Output]) -> str:
    """Where the photos are, as the last output folder of the chain that knows it says.

    Raises:
        StclError: none knows, or they are there no more.
    """
    named = [(output, output.options.get("images")) for output in reversed(outputs)]
    named = [(output, images) for output, images in named if isinstance(images, str) and images != "-"]
    if not named:
        raise StclError(f"{shown(outputs[-1].path)}: does not say where its photos are; give --images")
    for _, images in named:
        if os.path.exists(images):
            return images
    output, images = named[0]
    raise StclError(f"{shown(output.path / CONFIG)}: its photos, {shown(images)}, are not there; give --images")
