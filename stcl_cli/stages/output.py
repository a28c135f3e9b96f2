"""What every stage does with its output folder, and what it hands back to the command line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stcl_cli.config import Folder
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import write_classes
from stcl_cli.formats.files import shown, to_json
from stcl_cli.formats.runs import CONFIG, Failures, open_output, read_config, write_config

# Fields that say where or how fast a run goes, not what comes out of it: they may change when it is resumed.
FREE_ON_RESUME = {"resume", "overwrite", "output", "device", "workers", "save_every", "log_every"}


@dataclass(frozen=True)
class Result:
    """`summary` is printed as one JSON line on stdout; `skipped` inputs make the exit code 3."""

    summary: dict[str, Any] | None = None
    skipped: int = 0


def open_folder(config: Folder, command: str, classes: tuple[str, ...]) -> tuple[Path, Failures]:
    """The output folder with config.json and classes.txt in it. StclError if it is in use or of another run."""
    fields = {k: v for k, v in asdict(config).items() if k not in ("resume", "overwrite")}
    folder = open_output(config.output, config.resume, config.overwrite)
    if (folder / CONFIG).is_file():
        _check_same(folder, command, fields)
    write_config(folder, command, fields)
    write_classes(folder / "classes.txt", classes)
    return folder, Failures(folder)


def _check_same(folder: Path, command: str, fields: dict[str, Any]) -> None:
    before = read_config(folder, command)[1]
    for name, value in json.loads(to_json(fields)).items():
        if name not in FREE_ON_RESUME and before.get(name) != value:
            raise StclError(
                f"{shown(folder / CONFIG)}: was started with {name} = {before.get(name)}, not {value}; "
                f"resume with --config {shown(folder / CONFIG)}, or give another folder with -o"
            )
