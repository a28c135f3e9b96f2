"""Which photo a name in a list or a label file means: people write names in many ways."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stcl_cli.data.photos import Photo

_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif")


def stem(path: str) -> str:
    """`path` without a photo's suffix; 'photo.v1' has none and stays."""
    base, suffix = posixpath.splitext(path)
    return base if suffix.lower() in SUFFIXES else path


def with_suffix(photo: Photo) -> str:
    """The photo's name with the suffix of its file, also where the name leaves it out."""
    return photo.name if posixpath.basename(photo.name) == photo.path.name else photo.name + photo.path.suffix


def match_names(names: Iterable[str], photos: Sequence[Photo]) -> dict[str, Photo]:
    """The photo that each name means; names that mean none, or no single one, are left out.

    Tried in turn: the exact name; the same in another Unicode form or with backslashes; with or without a suffix;
    a path of this machine; the end of a path, as long as possible, that only one photo and only one of the names still
    open have; last, the base name without the eight digits that Label Studio puts before it ('3f2a1b8c-photo.jpg').
    An end means no photo of another folder where both know that folder: train/1 is not test/1.
    """
    ways = (
        (lambda photo: (photo.name, with_suffix(photo)), str),
        (lambda photo: (_key(photo.name), _key(with_suffix(photo))), _key),
        (lambda photo: (_key(stem(with_suffix(photo))),), lambda name: stem(_key(name))),
        (lambda photo: (_path_key(photo.path), stem(_path_key(photo.path))), _path_key),
    )
    found: dict[str, Photo] = {}
    missing = names = list(dict.fromkeys(names))
    for keys_of, key_of in ways:
        if missing:
            table = _unambiguous((key, photo) for photo in photos for key in set(keys_of(photo)))
            found.update((name, table[key]) for name in missing if (key := key_of(name)) in table)
            missing = [name for name in missing if name not in found]

    if not missing:
        return found
    deepest = min(_depth(missing), _depth(photo.name for photo in photos))
    for depth in (*range(deepest, 0, -1), 0):  # 0: the base name without what Label Studio puts before it
        # Of side.jpg and side.png also the whole names: exports of masks call them side.jpg.jpg and side.png.jpg.
        table = _unambiguous(
            (end(with_suffix(photo), depth or 1), photo) for photo in photos for end in (_end, _whole_end)
        )
        ends = (
            (name, end(name, depth) if depth else _UPLOADED.sub("", end(name, 1)))
            for name in missing
            for end in (_end, _whole_end)
        )
        alike = {name: table[end] for name, end in ends if end and end in table}  # of millions of names maybe none
        met = _of_one_folder(alike, names, photos, depth or 1) if alike else {}
        taken = {photo.name for photo in found.values()}
        count = Counter(photo.name for photo in met.values())
        found.update((name, photo) for name, photo in met.items() if photo.name not in taken and count[photo.name] == 1)
        # Whose folder was another one is not looked for by less of its path.
        missing = [name for name in missing if name not in found and (name in met or name not in alike)]
    return found


def of_several(names: Iterable[str], photos: Iterable[Photo]) -> set[str]:
    """Those of `names` that differ from several photos in the suffix alone."""
    count = Counter(_key(stem(with_suffix(photo))) for photo in photos)
    return {name for name in names if count[_key(name)] > 1}


def _of_one_folder(
    alike: Mapping[str, Photo], names: Iterable[str], photos: Iterable[Photo], depth: int
) -> dict[str, Photo]:
    """`alike` without names whose last `depth` parts lie in one folder and their photos in another.

    If the photos have the one folder or the names the other. Label Studio's uploads lie in numbers of projects.
    """
    folders = {photo.name: _folder(with_suffix(photo), depth) for photo in photos}
    known, named = set(folders.values()), {_folder(name, depth) for name in names}
    kept = {}
    for name, photo in alike.items():
        folder, other = _folder(name, depth), folders[photo.name]
        same = folder == other or not folder or not other or _folder(name, depth + 1) == "upload"
        if same or not (folder in known or other in named):
            kept[name] = photo
    return kept


def _key(name: str) -> str:
    """One spelling for NFC and NFD, for / and backslash, for a/b and ./a//b."""
    return posixpath.normpath(unicodedata.normalize("NFC", name.strip()).replace("\\", "/"))


def _path_key(path: str | os.PathLike[str]) -> str:
    return _key(os.path.abspath(path))


def _end(name: str, depth: int) -> str:
    """The last `depth` parts of a path, without suffix; '' where it has fewer."""
    return _whole_end(stem(_key(name)), depth)


def _whole_end(name: str, depth: int) -> str:
    """`_end` with the suffix."""
    parts = _key(name).split("/")
    return "/".join(parts[-depth:]) if len(parts) >= depth else ""


def _folder(path: str, depth: int) -> str:
    """The folder that the last `depth` parts of a path lie in; '' where there are no more."""
    parts = _key(path).split("/")
    return parts[-depth - 1] if len(parts) > depth else ""


def _depth(names: Iterable[str]) -> int:
    return max((_key(name).count("/") + 1 for name in names), default=0)


def _unambiguous(pairs: Iterable[tuple[str, Photo]]) -> dict[str, Photo]:
    """A table without the keys that several photos have."""
    table: dict[str, Photo | None] = {}
    for key, photo in pairs:
        table[key] = photo if table.get(key, photo) is photo else None
    return {key: photo for key, photo in table.items() if photo}
