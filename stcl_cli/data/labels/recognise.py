"""Which format a label file or folder is in: asked of its content, with the suffix as a hint."""

from __future__ import annotations

import codecs
import os
from collections import Counter
from pathlib import Path

from PIL import Image

from stcl_cli.data.labels.lists import SYNSETS
from stcl_cli.data.labels.masks import VOC_MASKS
from stcl_cli.data.labels.npy import MAGIC
from stcl_cli.data.labels.rows import PARTS, walk
from stcl_cli.data.labels.yolo import OBJ_NAMES
from stcl_cli.data.scan import scan_folder
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats.classes import CLASSES, read_classes
from stcl_cli.formats.files import read_json
from stcl_cli.formats.images import open_image
from stcl_cli.formats.photo_labels import PHOTOS
from stcl_cli.formats.runs import CONFIG
from stcl_cli.wording import shown, some

_HEAD = 4096
_OF_STCL = frozenset({CONFIG, PHOTOS})  # in folders that stcl writes
_FOREIGN = {
    b"PK": "is a ZIP archive or an Excel file; unpack the one, save the other as CSV",
    b"\x80": "is a pickle, which could run anything; numpy.save the dictionary as .npy",
    b"\x89PNG": "is one image; give the folder of masks",
    b"\xff\xd8\xff": "is a photo; give the labels",
}


def recognise(path: Path) -> str:
    """The name of the format, see stcl_cli.config.LABEL_FORMATS; 'json' may turn out as another kind of JSON.

    Raises:
        StclError: missing or unreadable, or known to be no labels.
    """
    try:
        if path.is_dir():
            return _folder(path)
        if path.exists() and not path.is_file():
            raise StclError(f"{shown(path)}: is not a regular file; save the labels in one")
        with open(path, "rb") as file:
            return _file(path, file.read(_HEAD))
    except OSError as error:
        raise StclError(f"{shown(path)}: cannot be read ({error.strerror}); check the path") from error


def _file(path: Path, head: bytes) -> str:
    if head.startswith(MAGIC):
        return "npy"
    for magic, reason in _FOREIGN.items():
        if head.startswith(magic):
            raise StclError(f"{shown(path)}: {reason}")
    is_utf16 = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = head.decode("utf-16" if is_utf16 else "utf-8-sig", "replace").lstrip()
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return "csv"
    if suffix in (".yaml", ".yml"):
        return "yolo"
    if suffix in (".json", ".jsonl", ".ndjson") or text.startswith(("{", "[")):
        return "json"
    if text.startswith("<"):
        return "cvat"
    return "lists" if (path.parent / SYNSETS).is_file() else "csv"


def _folder(path: Path) -> str:
    files = list(walk(path))
    top = {file for file in files if "/" not in file}
    count = Counter(os.path.splitext(file)[1].lower() for file in files)
    photos = sorted(scan_folder(path)[0])
    if "data.yaml" in top or OBJ_NAMES in top:
        return "yolo"
    if "annotations.xml" in top:
        return "cvat"
    if (path / "Annotations").is_dir() or (count[".xml"] and 2 * count[".xml"] >= len(photos)):  # nearly one a photo
        return "voc"
    if (path / VOC_MASKS).is_dir():
        return "masks"
    lists = [name for name in top if name.lower().endswith(".txt") and name != CLASSES]
    if CLASSES in top and (lists or (path / "labels").is_dir()):
        return "yolo"
    if count[".json"] and 2 * count[".json"] >= len(photos) and _is_labelme(path, files):
        return "labelme"
    if lists and all("/" in photo for photo in photos):
        _check_lists_of_classes(path, lists)
        return "lists"
    if photos and _are_masks(path, photos, CLASSES in top):
        return "masks"
    tables = [name for name in sorted(files) if name.lower().endswith((".json", ".csv", ".tsv"))]
    single = next((name for name in tables if name not in _OF_STCL and name.count("/") < 2), None)
    if single and all("/" not in photo for photo in photos):
        raise StclError(f"{shown(path)}: is no folder of labels; give a file, such as {shown(path / single)}")
    _check_named_after_classes(path, files, photos)
    return "folders"


def _check_named_after_classes(path: Path, files: list[str], photos: list[str]) -> None:
    """StclError if sub-folders are most likely not called after what their photos show."""
    stems = {os.path.splitext(photo)[0] for photo in photos}
    for file in sorted(files):
        stem, suffix = os.path.splitext(file)
        suffix, beside = suffix.lower(), stem in stems
        if (suffix in (".yaml", ".yml") and "/" not in stem) or (suffix in (".xml", ".json") and beside):
            raise StclError(
                f"{shown(path)}: holds sub-folders of photos, and {shown(file)}; say which are the labels with "
                "--labels-format (folders, voc, labelme or yolo)"
            )
    names = {photo.split("/")[0] for photo in photos if "/" in photo}
    if names and names <= PARTS:
        raise StclError(
            f"{shown(path)}: its sub-folders are called {some(sorted(names))}, like parts of a data set, not like "
            "classes; give one of them, or --labels-format folders"
        )


def _check_lists_of_classes(path: Path, lists: list[str]) -> None:
    """StclError if text files are called after parts of a data set, as in VOC's ImageSets/Segmentation."""
    names = {os.path.splitext(name)[0] for name in lists}
    if names <= PARTS:
        raise StclError(
            f"{shown(path)}: its text files are called {some(sorted(names))}, like parts of a data set, not like "
            "classes; give the labels, or --labels-format lists"
        )


def _is_labelme(path: Path, files: list[str]) -> bool:
    value = read_json(path / min(file for file in files if file.lower().endswith(".json")))
    return isinstance(value, dict) and "shapes" in value


def _are_masks(path: Path, photos: list[str], has_classes: bool) -> bool:
    """Masks have one channel. So has a grey photo, which shows in being in a sub-folder called after its class."""
    try:
        with open_image(path / photos[0]) as image:
            palette, single = image.mode == "P", image.format == "PNG" and Image.getmodebands(image.mode) == 1
    except PhotoError:
        return False
    sub_folders = {photo.split("/")[0] for photo in photos if "/" in photo}
    if not has_classes:
        return single and not sub_folders
    return single and (palette or not sub_folders or not sub_folders <= set(read_classes(path / CLASSES)))
