"""Searching a folder for photos: links, circles and everything else that lies about on disks."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from pathlib import Path

from stcl_cli.data.matching import SUFFIXES
from stcl_cli.errors import StclError
from stcl_cli.formats.runs import CONFIG, made_by_stcl
from stcl_cli.wording import shown

UNREAD = (".heic", ".heif", ".avif")  # what phones and browsers write


def scan_folder(root: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Relative paths of the photos under `root`, and (path, reason) of what looks like one but cannot be had.

    Hidden files and sub-folders that hold outputs of stcl are left out, as is a format that is not read where a photo
    of the same name lies beside it. A folder that can be reached in several ways is searched once, under its real path
    if that is inside `root`.

    Raises:
        StclError: `root` cannot be read.
    """
    paths: list[str] = []
    missing: list[tuple[str, str]] = []
    unread: list[str] = []
    seen: set[tuple[int, int]] = set()
    folders, links = [""], []  # links wait until every real folder is known
    while folders or links:
        folder = folders.pop() if folders else links.pop(links.index(min(links)))
        try:
            status = os.stat(root / folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            entries = list(os.scandir(root / folder))
        except OSError as error:
            if not folder:
                raise StclError(f"{shown(root)}: cannot be read ({error.strerror}); check its permissions") from error
            missing.append((folder, f"cannot be read ({error.strerror})"))
            continue
        if folder and any(entry.name == CONFIG for entry in entries) and made_by_stcl(root / folder):
            continue
        for entry in entries:
            path = posixpath.join(folder, entry.name)
            if entry.name.startswith("."):
                continue
            if _is(entry.is_dir):
                (links if entry.is_symlink() else folders).append(path)
            elif entry.name.lower().endswith(SUFFIXES):
                if _is(entry.is_file):
                    paths.append(path)
                else:
                    missing.append((path, "is a broken link" if entry.is_symlink() else "is not a regular file"))
            elif entry.name.lower().endswith(UNREAD) and _is(entry.is_file):
                unread.append(path)
            elif entry.is_symlink() and not posixpath.splitext(path)[1] and not os.path.exists(root / path):
                missing.append((path, "is a broken link"))  # perhaps to a folder on a disk that is not there
    if unread:
        read = {posixpath.splitext(path)[0] for path in paths}
        reason = "is of a kind that is not read; convert it to JPEG or PNG"
        missing += [(path, reason) for path in unread if posixpath.splitext(path)[0] not in read]
    return paths, sorted(missing)


def _is(question: Callable[[], bool]) -> bool:
    """The answer of an entry's is_file or is_dir; a link to itself is neither."""
    try:
        return question()
    except OSError:
        return False
