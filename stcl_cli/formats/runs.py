"""Output folders: who may write into one, its config.json, and the lines a run adds to its logs."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import stcl_cli
from stcl_cli.errors import StclError
from stcl_cli.formats.files import (
    atomic_write,
    json_bytes,
    read_json,
    remove_temporary_files,
    to_json,
    write_error,
    write_json,
)
from stcl_cli.formats.locks import check_nobody_inside, lock_folder, one_at_a_time
from stcl_cli.runtime.launch import Shard
from stcl_cli.wording import shown

CONFIG = "config.json"
FAILED = "failed.jsonl"
_EMPTYING = ".stcl-emptying"  # is there while --overwrite deletes
ALL = Shard()
_PART = "failed-{}-of-{}.jsonl"


def open_output(
    folder: str | os.PathLike[str],
    resume: bool = False,
    overwrite: bool = False,
    shard: Shard = ALL,
    option: str = "-o",
) -> bool:
    """Make `folder`, or take it over as `resume` and `overwrite` allow; `overwrite` empties it.

    This process holds it until it ends. What a killed one left half written is deleted. A shard goes on in the folder
    of the others without being asked to `resume`. `option` is the one that named the folder.

    Returns:
        Whether this process is alone in it; if it is a shard, the others wait for `share_folder`.

    Raises:
        StclError: another process is at work in it; it is not empty and neither is given; both are; or it was not made
            by stcl.
    """
    folder = Path(folder)
    if resume and overwrite:
        raise StclError(f"{shown(folder)}: --resume and --overwrite exclude each other; give one of them")
    if overwrite and shard != ALL:
        raise StclError(f"{shown(folder)}: --overwrite would delete the other shards' files; empty the folder first")
    may_be_used = resume or overwrite or shard != ALL
    file = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)
    if file:
        raise StclError(f"{shown(file)}: is a file; give a folder with {option}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Before the lock, which should leave no trace in a folder that is not ours.
        _entries(folder, may_be_used, option)
        alone = lock_folder(folder, shard)
        entries = _entries(folder, may_be_used, option)
        if overwrite or (alone and (folder / _EMPTYING).exists()):
            check_nobody_inside(folder)
            _empty(folder, entries)
        if alone:
            remove_temporary_files(folder)
    except OSError as error:
        raise write_error(folder, error) from error
    return alone


def _empty(folder: Path, entries: list[os.DirEntry]) -> None:
    """Delete what is in the folder; if that is interrupted, the next one to open the folder goes on with it."""
    (folder / _EMPTYING).touch()
    # config.json goes last: were this interrupted, the folder would still be known as ours
    for entry in sorted(entries, key=lambda entry: entry.name == CONFIG):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
    (folder / _EMPTYING).unlink()


def check_usable(folder: Path, may_be_used: bool, option: str) -> None:
    """StclError if `open_output` would refuse the folder for what is in it; nothing is made or deleted."""
    try:
        if folder.exists():
            _entries(folder, may_be_used, option)
    except OSError as error:
        raise write_error(folder, error) from error


def _entries(folder: Path, may_be_used: bool, option: str) -> list[os.DirEntry]:
    """What is in the folder, without hidden files of ours. StclError if it may not be used."""
    entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".stcl-")]
    if entries and not made_by_stcl(folder):
        raise StclError(f"{shown(folder)}: holds files but no {CONFIG} of stcl; choose another folder with {option}")
    if entries and not may_be_used:
        raise StclError(f"{shown(folder)}: is not empty; give --resume, --overwrite or another folder with {option}")
    return entries


def write_config(
    folder: str | os.PathLike[str], command: str, config: Mapping[str, Any], sources: Mapping[str, str] | None = None
) -> None:
    """Write config.json: {"command": `command`, "stcl": version, "sources": `sources`, **`config`}."""
    what = {"command": command, "stcl": stcl_cli.__version__, **({"sources": sources} if sources else {})}
    write_json(Path(folder, CONFIG), {**what, **config})


def read_config(path: str | os.PathLike[str], command: str | None = None) -> tuple[str, dict[str, Any]]:
    """(command, options) of an output folder, or of its config.json; `command` is the one it must have been made by.

    Raises:
        StclError: not an output folder of stcl, or one of another command.
    """
    path = Path(path)
    wanted = f"stcl {command}" if command else "stcl"
    if not os.path.exists(path):
        raise StclError(f"{shown(path)}: is not there; give an output folder of {wanted}")
    file = path / CONFIG if path.is_dir() else path
    if not os.path.exists(file):
        raise StclError(f"{shown(path)}: has no {CONFIG}; give an output folder of {wanted}")
    fields = read_json(file)
    try:
        to_json(fields)
    except RecursionError:  # no config of ours is nested so deeply that it could not be written again
        fields = None
    if not (isinstance(fields, dict) and isinstance(fields.get("command"), str) and "stcl" in fields):
        raise StclError(f"{shown(file)}: was not written by stcl; give an output folder of {wanted}")
    made_by = fields["command"]
    if command and made_by != command:
        raise StclError(f"{shown(path)}: was made by stcl {shown(made_by)}; give an output folder of {wanted}")
    return made_by, {name: value for name, value in fields.items() if name not in ("command", "stcl", "sources")}


def read_sources(folder: Path) -> dict[str, str]:
    """Of a folder with a config.json of ours: the check values of what it was made from; {} if it says nothing."""
    sources = read_json(folder / CONFIG).get("sources", {})
    return sources if isinstance(sources, dict) else {}


def made_by_stcl(folder: str | os.PathLike[str]) -> bool:
    """Whether `folder` holds a config.json of ours."""
    try:
        read_config(Path(folder, CONFIG))
    except StclError:
        return False
    return True


def append_jsonl(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Add one line to a JSON-lines file at once. Half a line that a killed run left at its end is cut off."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.seek(0)
                    file.truncate(file.readall().rfind(b"\n") + 1)
            line = json_bytes(record)
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise write_error(path, error) from error


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a JSON-lines file, without half a line at its end; an absent file has none.

    Raises:
        StclError: unreadable, or a line that is not a JSON object.
    """
    try:
        *lines, _ = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StclError(f"{shown(path)}: cannot be read ({error.strerror}); check its permissions") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise StclError(f"{shown(path)} line {number}: is not a JSON object; remove that line")
        records.append(record)
    return records


def read_failures(path: str | os.PathLike[str]) -> dict[str, str]:
    """{name of an input that was skipped: why} of a failed.jsonl; the first reason counts. An absent file has none.

    Raises:
        StclError: unreadable, or a line that says something else.
    """
    reasons: dict[str, str] = {}
    for number, record in enumerate(read_jsonl(path), 1):
        name, reason = record.get("image"), record.get("reason")
        if not (isinstance(name, str) and isinstance(reason, str)):
            raise StclError(f"{shown(path)} line {number}: names no image and reason; remove that line")
        reasons.setdefault(name, reason)
    return reasons


def _write_failures(path: Path, reasons: Mapping[str, str]) -> None:
    """No file where there are none."""
    if reasons:
        with atomic_write(path) as temporary:
            temporary.write_bytes(
                b"".join(json_bytes({"image": name, "reason": reasons[name]}) for name in sorted(reasons))
            )
        return
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


class Failures:
    """Inputs that a run goes on without: each once in FOLDER/failed.jsonl, as {"image": name, "reason": why}.

    A run starts with none, also a resumed one: what failed before is tried again; but for the names to `keep`, as a
    training that goes on behind them has to. A shard has a file of its own until `settle`. Without `write` they are but
    counted.
    """

    def __init__(
        self, folder: str | os.PathLike[str], shard: Shard = ALL, *, keep: Container[str] = (), write: bool = True
    ) -> None:
        self.folder, self.shard, self.write = Path(folder), shard, write
        self.path = self.folder / (FAILED if shard == ALL else _PART.format(*shard))
        before = read_failures(self.path) if keep else {}
        self.reasons = {name: reason for name, reason in before.items() if name in keep}
        if write:
            _write_failures(self.path, self.reasons)
            for path in self.folder.glob(_PART.format("*", "*")) if shard == ALL else ():
                _write_failures(path, {})

    def add(self, name: str, reason: object) -> None:
        """Record that `name` was skipped; a name that is known already stays as it is."""
        if name not in self.reasons:
            self.reasons[name] = str(reason)
            if self.write:
                append_jsonl(self.path, {"image": name, "reason": str(reason)})

    def settle(self) -> None:
        """Sort them, so that the file is the same however often a run was stopped; bring those of shards together."""
        if self.shard == ALL:
            if self.write:
                _write_failures(self.path, self.reasons)
            return
        path = self.folder / FAILED
        with one_at_a_time(self.folder):
            parts = self.folder.glob(_PART.format("*", self.shard.count))
            reasons = {name: reason for part in parts for name, reason in read_failures(part).items()}
            _write_failures(path, reasons)

    def __len__(self) -> int:
        return len(self.reasons)
