"""Text files with a photo a line: one a class (as VOC's ImageSets/Main has them), or one a subset with synsets.txt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from stcl_cli.data.labels.rows import PARTS, Row, Table, files_below
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import check_classes, clean_name
from stcl_cli.formats.files import read_text
from stcl_cli.wording import shown

SYNSETS = "synsets.txt"
_VOC_LINE = re.compile(r"(.*\S)\s+(-1|0|1)")
_INDEXED_LINE = re.compile(r'(?:"([^"]*)"(\S*)|(\S+))((?:\s+\d{1,9})*)')  # "my photo".jpg 0 3

_Lines = list[tuple[str, str]]  # (file and line, text)


def read(path: Path, classes: Sequence[str] | None) -> Table:
    """CLASS.txt files, or SUBSET.txt files with class numbers beside a synsets.txt that names them (ImageNet's lists).

    Where lines end in 1, 0 or -1, as in VOC's CLASS_SUBSET.txt, photos with -1 do not show the class.

    Raises:
        StclError: no such file, or a line of another layout.
    """
    folder, names = (path, files_below(path, ".txt")) if path.is_dir() else (path.parent, [path.name])
    files = {name: _lines(folder / name) for name in names if Path(name).name != SYNSETS}
    if (folder / SYNSETS).is_file():
        return _subsets(folder / SYNSETS, files)
    return _class_files(files)


def _lines(file: Path) -> _Lines:
    text = read_text(file, "surrogateescape")
    return [(f"{shown(file)} line {n}", line.strip()) for n, line in enumerate(text.split("\n"), 1) if line.strip()]


def _subsets(synsets: Path, files: dict[str, _Lines]) -> Table:
    classes = check_classes((line for _, line in _lines(synsets)), shown(synsets))
    rows = []
    for origin, line in (pair for lines in files.values() for pair in lines):
        found = _INDEXED_LINE.fullmatch(line)
        numbers = [int(number) for number in found[4].split()] if found else []
        if not found or any(number >= len(classes) for number in numbers):
            cure = f"write a photo and numbers of lines in {SYNSETS}, from 0 to {len(classes) - 1}"
            raise StclError(f"{origin}: '{shown(line)}' is not of ImageNet's lists; {cure}")
        name = found[3] if found[3] is not None else found[1] + found[2]
        rows.append(Row(origin, name, [classes[number] for number in numbers]))
    return Table(rows, classes)


def _class_files(files: dict[str, _Lines]) -> Table:
    signed = {name: [(origin, _VOC_LINE.fullmatch(line)) for origin, line in lines] for name, lines in files.items()}
    signed = {name: lines for name, lines in signed.items() if lines and all(found for _, found in lines)}
    if not signed:
        rows = [Row(origin, line, [_stem(name)]) for name, lines in files.items() for origin, line in lines]
        return Table(rows, sorted(map(_stem, files)))
    rows, subsets = [], []
    for name in sorted(files.keys() - signed.keys()):
        subset = f"_{_stem(name)}"
        if any(_stem(other).endswith(subset) for other in signed):  # train.txt stands beside cat_train.txt
            subsets.append(subset)
        elif _stem(name) not in PARTS:
            rows += [Row(origin, line, [_stem(name)]) for origin, line in files[name]]
    for name, lines in signed.items():
        subset = max((end for end in subsets if _stem(name).endswith(end)), key=len, default="")
        shows = [clean_name(_stem(name).removesuffix(subset))]
        rows += [Row(origin, found[1], shows if found[2] != "-1" else []) for origin, found in lines if found]
    return Table(rows)


def _stem(name: str) -> str:
    return clean_name(Path(name).name[: -len(".txt")])
