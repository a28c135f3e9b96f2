"""Which photo a file of an earlier stage belongs to."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection, Sequence
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from stcl_cli.data.photos import Photo
from stcl_cli.errors import StclError
from stcl_cli.wording import shown


class Outputs(NamedTuple):
    """{photo name: its file}, and (name, reason) of files without a photo."""

    by_photo: dict[str, Path]
    orphans: list[tuple[str, str]]


def match_outputs(folder: str | os.PathLike[str], suffix: str, photos: Sequence[Photo]) -> Outputs:
    """Bring photos and the files in `folder` that are called after them together: their names are the same.

    Where none is, all files may lie in a folder too many: `find photos | stcl cam -` writes CAMS/photos/a.safetensors,
    and that is found for a.jpg in the folder photos. Hidden files do not count. Of a.PNG and a.png the latter is read.

    Raises:
        StclError: there is no such folder.
    """
    every = _every_output(folder, suffix)
    files = {name: path for path, name in every.items()}
    names = {photo.name for photo in photos}
    lead = _lead(files, names)
    by_photo = {name[len(lead) :]: path for name, path in files.items() if name[len(lead) :] in names}
    used = set(by_photo.values())
    orphans = []
    for path, name in every.items():
        twin = files[name]
        if twin != path:
            orphans.append((f"{name}{path.suffix}", f"{shown(path)}: {shown(twin.name)} beside it is read instead"))
        elif path not in used:
            orphans.append((name, f"{shown(path)}: there is no photo of this name; delete it if that is gone"))
    return Outputs(by_photo, orphans)


def output_files(folder: str | os.PathLike[str], suffix: str) -> dict[str, Path]:
    """{name: its file} of those in `folder` that end in `suffix`, in any case. StclError if it is no folder."""
    return {name: path for path, name in _every_output(folder, suffix).items()}


def has_files(folder: Path, suffix: str | tuple[str, ...]) -> bool:
    """Whether one of `output_files`, or of several suffixes, is there, without looking for all."""
    return any(_is_output(path, suffix) for path in folder.rglob("*"))


def no_mask(folder: str | os.PathLike[str], images: str) -> StclError:
    """What to say of a folder in which no photo of `images` has a mask."""
    cure = "a mask is named like its photo, in a folder of masks alone"
    if not has_files(Path(folder), ".png") and has_files(Path(folder), (".jpg", ".jpeg")):
        cure = "its files are JPEGs, which blur class indices; save the masks as palette PNGs"
    return StclError(f"{shown(folder)}: holds no mask (PNG) for any photo in {shown(images)}; {cure}")


def _every_output(folder: str | os.PathLike[str], suffix: str) -> dict[Path, str]:
    """{file: its name}, of equal names last the one whose suffix is in lower case."""
    folder = Path(folder)
    if not folder.is_dir():
        raise StclError(f"{shown(folder)}: is no folder; check the path")
    paths = [path for path in sorted(folder.rglob("*")) if _is_output(path, suffix)]
    return {path: path.relative_to(folder).as_posix()[: -len(suffix)] for path in paths}


def _is_output(path: Path, suffix: str | tuple[str, ...]) -> bool:
    return path.name.lower().endswith(suffix) and path.name[0] != "." and not path.is_dir()


def _lead(files: Collection[str], names: set[str]) -> str:
    """The shortest lead, 'photos/' or '', common to all files, behind which one of them has the name of a photo."""
    common = posixpath.commonpath([posixpath.dirname(name) for name in files]) if files else ""
    leads = accumulate(f"{part}/" for part in common.split("/") if part)
    return next((lead for lead in ("", *leads) if any(name[len(lead) :] in names for name in files)), "")
