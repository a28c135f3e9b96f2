"""Ultralytics: data.yaml with the class names, and a YOLO label file for each photo."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from stcl_cli.data.labels.rows import Row, Table, files_below
from stcl_cli.data.matching import stem
from stcl_cli.data.scan import scan_folder
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import CLASSES, check_classes, read_classes
from stcl_cli.formats.files import read_text
from stcl_cli.wording import shown

OBJ_NAMES = "obj.names"
SPLITS = ("train", "val", "test")
_NOTHING = ("", "~", "null", "Null", "NULL")


def read(path: Path, classes: Sequence[str] | None) -> Table:
    """Classes in the order of the names; a photo without a label file shows none of them, as for Ultralytics.

    Args:
        path: data.yaml or its folder; a folder with classes.txt and labels/, as Label Studio and LabelImg write it; or
            one with obj.names and obj_train_data/, as CVAT's YOLO 1.1 is.

    Raises:
        StclError: another layout, or a number without a name; names file and line.
    """
    if path.is_dir() and not (path / "data.yaml").is_file():
        return _folder(path)
    file = path / "data.yaml" if path.is_dir() else path
    settings = _settings(file)
    names = _names(settings.get("names"), shown(file))
    if settings.keys().isdisjoint(SPLITS):  # supervision leaves them out
        settings["train"] = "images"
    rows = []
    for split in SPLITS:
        entries = settings.get(split)
        for entry in entries if isinstance(entries, list) else [entries]:
            if entry in (None, *_NOTHING):
                continue
            if place := _find(file, settings.get("path"), entry):
                rows += [_row(label, photo, names) for photo, label in _pairs(place)]
            elif split == "train":
                raise StclError(f"{shown(file)}: `train` leads to no photos or labels; correct `path` or `train` in it")
    return Table(rows, names)


def _folder(path: Path) -> Table:
    """A folder with a list of class names and a label file a photo."""
    if (path / OBJ_NAMES).is_file():
        names, folders = read_classes(path / OBJ_NAMES), sorted(path.glob("obj_*_data"))
    else:
        names, folders = read_classes(path / CLASSES), [path / "labels" if (path / "labels").is_dir() else path]
    files = [(folder / name, name) for folder in folders for name in files_below(folder, ".txt") if name != CLASSES]
    return Table([_row(file, name[: -len(".txt")], names) for file, name in files], names)


def _settings(file: Path) -> dict[str, Any]:
    try:  # BaseLoader makes text, lists and tables only: nothing is run, and a class called `no` stays so
        settings = yaml.load(read_text(file), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise StclError(f"{shown(file)}: is not YAML ({' '.join(str(error).split())}); correct it") from error
    if not isinstance(settings, dict):
        raise StclError(f"{shown(file)}: is no data.yaml of Ultralytics; write `names:` and `train:`")
    return settings


def _names(names: Any, file: str) -> tuple[str, ...]:
    """`names: [cat, dog]` or `names: {0: cat, 1: dog}`."""
    if isinstance(names, dict):
        numbers = [str(number) for number in range(len(names))]
        if set(names) != set(numbers):
            raise StclError(f"{file}: the numbers of `names` do not go from 0 to {len(names) - 1}; number them so")
        names = [names[number] for number in numbers]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise StclError(f"{file}: has no `names`; write the class names there")
    return check_classes(names, file)


def _find(file: Path, root: Any, entry: Any) -> Path | None:
    """A folder or list of photos: below `path`, else beside data.yaml, where Roboflow's '../train/images' belongs too.

    The photos themselves may be elsewhere, as long as the label files are there. Exports without a val or test split
    name one all the same: None.
    """
    if not isinstance(entry, str) or not isinstance(root, str | None):
        raise StclError(f"{shown(file)}: `path` and {', '.join(SPLITS)} must be text or lists of text; correct it")
    for base in (file.parent / (root or ""), file.parent):
        for place in (base / entry, base / entry.removeprefix("../")):
            if place.exists() or _label_of(place / "x").parent.is_dir():
                return place
    return None


def _pairs(place: Path) -> Iterator[tuple[str, Path]]:
    """(photo, label file) of a folder or list of photos; the photo as an absolute path, which matches any IMAGES."""
    if place.is_file():
        for line in read_text(place, "surrogateescape").splitlines():
            if line.strip():
                tries = [place.parent / line.strip(), place.parent / line.strip().removeprefix("data/")]
                photo = next((path for path in tries if _label_of(path).exists() or path.exists()), tries[0])
                yield os.path.abspath(photo), _label_of(photo)
        return
    photos = [place / name for name in scan_folder(place)[0]] if place.is_dir() else []
    labels = _label_of(place / "x").parent
    if not photos and labels.is_dir():
        photos = [place / name[: -len(".txt")] for name in files_below(labels, ".txt")]
    for photo in sorted(photos):
        yield os.path.abspath(photo), _label_of(photo)


def _label_of(photo: Path) -> Path:
    """Ultralytics' rule: the last folder called images becomes labels, the suffix .txt."""
    parts = list(photo.parts)
    folders = [number for number, part in enumerate(parts[:-1]) if part == "images"]
    if folders:
        parts[folders[-1]] = "labels"
    return Path(*parts[:-1], stem(parts[-1]) + ".txt")


def _row(file: Path, name: str, classes: Sequence[str]) -> Row:
    shows: list[str] = []
    if file.is_file():
        for number, line in enumerate(read_text(file).splitlines(), 1):
            if line.strip():
                index = line.split()[0]
                if not index.isdecimal() or len(index) > 9 or int(index) >= len(classes):
                    cure = f"class numbers go from 0 to {len(classes) - 1}"
                    raise StclError(f"{shown(file)} line {number}: begins with '{shown(index)}'; {cure}")
                shows.append(classes[int(index)])
    return Row(shown(file), name, shows)
