"""Photos: finding them and naming them."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from stcl_cli.data.matching import SUFFIXES, match_names, stem
from stcl_cli.data.scan import scan_folder
from stcl_cli.errors import StclError
from stcl_cli.formats.files import decode, read_text
from stcl_cli.runtime.launch import launch, under_torchrun
from stcl_cli.wording import shown


@dataclass(frozen=True)
class Photo:
    """A photo on disk.

    Attributes:
        name: relative path without suffix, with '/' ('sub dir/bär 01'); all outputs are called after it. Where
            two photos would share one name, as a.jpg and a.png do, each keeps its suffix in the name.
        path: the file.
    """

    name: str
    path: Path


class PhotoList(NamedTuple):
    """Photos sorted by name, and what was named but cannot be had: (name, reason)."""

    photos: list[Photo]
    missing: list[tuple[str, str]]


def list_photos(
    source: str | os.PathLike[str], list_file: str | os.PathLike[str] | None = None, kind: str = ""
) -> PhotoList:
    """Find photos in a folder, in a text list, or in a list on stdin.

    A folder is searched recursively: hidden files and output folders of stcl are left out, links are followed once.
    In a list, relative paths count from the working directory, else from the list's own folder; photos are
    named by the paths as given or, where one is absolute or leads outside, relative to their common folder.

    Args:
        source: a folder, a list with one path a line, '-' for stdin, or a single photo.
        list_file: keep only the photos named in this file, one a line, with or without suffix; the second column
            (1, 0, -1) of VOC's lists of one class is passed over: every photo named is kept.
        kind: of a folder only files with this suffix.

    Raises:
        StclError: nothing there, or no photo left.
    """
    source = os.fspath(source)
    if source == "-":
        photos, missing = _from_lines(_stdin_lines(), Path())
    elif os.path.isdir(source):
        paths, missing = scan_folder(Path(source))
        photos = _named({path: Path(source, path) for path in paths if path.lower().endswith(kind)})
    elif not os.path.exists(source):
        raise StclError(f"{shown(source)}: is not there; give a folder of photos, a list of paths, or - for stdin")
    elif source.lower().endswith(SUFFIXES):
        photos, missing = _from_lines([source], Path())
    else:
        photos, missing = _from_lines(_lines(read_text(source, "surrogateescape")), Path(source).parent)
    if not photos:
        first = f" ({shown(missing[0][0])} {missing[0][1]})" if missing else ""
        raise StclError(f"{shown(source)}: holds no photo{first}; give a folder or list of {', '.join(SUFFIXES)} files")
    if list_file:
        photos, missing = _keep(photos, list_file, source)
    return PhotoList(sorted(photos, key=lambda photo: photo.name), list(dict.fromkeys(missing)))


def _from_lines(lines: Iterable[str], folder: Path) -> PhotoList:
    paths: dict[str, Path] = {}
    missing = []
    for line in lines:
        ways = (line, line.strip(), line.strip().replace("\\", "/"))  # the last as Windows writes paths
        tries = [(text, Path(root, text)) for text in ways for root in ("", folder)]
        text, path = next(((text, path) for text, path in tries if os.path.exists(path)), (line, None))
        if path is None:
            missing.append((line, "is not there"))
        elif path.is_dir():
            missing.append((line, "is a folder"))
        else:
            same = paths.setdefault(os.path.normpath(text), path)
            if same is not path and not os.path.samefile(same, path):  # .. after a link
                missing.append((line, f"would have the name of {shown(same)}; write its path without links"))
    if any(os.path.isabs(text) or text.split(os.sep)[0] == os.pardir for text in paths):
        absolute = {os.path.abspath(path): path for path in paths.values()}
        common = os.path.commonpath([os.path.dirname(path) for path in absolute])
        paths = {os.path.relpath(text, common): path for text, path in absolute.items()}
    return PhotoList(_named(paths), missing)


def _named(paths: dict[str, Path]) -> list[Photo]:
    """Photos of {relative path: path}, named without suffix unless that is the name or path of another one."""
    count = Counter(map(stem, paths))
    photos = []
    for text, path in paths.items():
        name = stem(text)
        photos.append(Photo(text if count[name] > 1 or (name != text and name in paths) else name, path))
    return photos


def _keep(photos: list[Photo], list_file: str | os.PathLike[str], source: str) -> PhotoList:
    lines = _lines(read_text(list_file, "surrogateescape"))
    found = match_names(lines, photos)
    if len(found) < len(set(lines)):
        columns = _first_column(lines)
        of_columns = match_names(columns, photos)
        if len(of_columns) > len(found):  # photos may be called so: 'cat 0'
            lines, found = columns, of_columns
    if not found:
        first = f" (its first line is '{shown(lines[0])}')" if lines else " (it is empty)"
        raise StclError(f"{shown(list_file)}: names no photo of {shown(source)}{first}; write one name a line")
    reason = f"is in {shown(list_file)} but is no photo of {shown(source)}"
    missing = [(line, reason) for line in dict.fromkeys(lines) if line not in found]
    return PhotoList(list(set(found.values())), missing)


def _first_column(lines: list[str]) -> list[str]:
    """Lines without the 1, 0 or -1 in VOC's lists of one class, if each line ends in one."""
    columns = [re.fullmatch(r"(.*\S)\s+(?:-1|0|1)\s*", line) for line in lines]
    return [column[1] for column in columns if column] if all(columns) else lines


def _lines(text: str) -> list[str]:
    """Lines, or what `find -print0` writes, without blank ones."""
    parts = text.split("\0") if "\0" in text else [line.rstrip("\r") for line in text.split("\n")]
    return [part for part in parts if part.strip()]


_read_from: tuple[Any, list[str]] | None = None  # a stdin that was read, and its lines: there is nothing left in it


def _stdin_lines() -> list[str]:
    global _read_from
    if _read_from is None or _read_from[0] is not sys.stdin:
        if launch().ranks > 1 and under_torchrun():
            raise StclError(
                "-: torchrun's processes share one stdin, and each would read a part; write the list to a file"
            )
        try:
            _read_from = sys.stdin, _lines(decode(sys.stdin.buffer.read(), "surrogateescape"))
        except UnicodeError as error:
            raise StclError(f"stdin: is no UTF-8 text ({error}); pipe a list of paths in") from error
    return _read_from[1]
