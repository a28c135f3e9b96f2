"""CSV and TSV: a photo and its classes a line, or a column of 0 and 1 for each class."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from stcl_cli.data.labels.rows import IMAGE_KEYS, LABEL_KEYS, Row, Table, check_known, class_names, split_names
from stcl_cli.data.matching import SUFFIXES
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import check_classes, clean_name, is_background
from stcl_cli.formats.files import read_text, shown

_SHOWN = {"1", "1.0", "true"}
_FLAGS = _SHOWN | {"0", "0.0", "false", ""}
_JOINERS = {",": ";|", "\t": ";|", ";": ",|"}  # what stands between the classes of one cell


class _Line(NamedTuple):
    origin: str
    cells: list[str]


def read(path: Path, classes: Sequence[str] | None) -> Table:
    """Lines between commas, tabs or semicolons, header or not.

    Pairs hold a photo and its classes, several joined by ';' or '|' (by ',' where ';' parts the cells); in a wider
    table the header says which columns those are. One-hot columns have the class names in the header, or are
    `classes` in their order.

    Raises:
        StclError: another layout; names file and line.
    """
    text = read_text(path)
    delimiter = _delimiter(text)
    lines = _lines(text, shown(path), delimiter)
    header = _keys(lines[0])
    if len(header) > 2 and header[0] == "" and header[1] in IMAGE_KEYS:  # the numbers that pandas writes in front
        lines = [line._replace(cells=line.cells[1:]) for line in lines]
        header = header[1:]
    image = next((column for column, key in enumerate(header) if key in IMAGE_KEYS), None)
    label = next((column for column, key in enumerate(header) if key in LABEL_KEYS), None)
    if image is not None and label is not None and (len(header) == 2 or not _all_flags(lines[1:])):
        lines = lines[1:]
    elif len(header) > 2 or _is_one_column(lines):
        return _columns(path, lines, classes)
    else:
        image, label = 0, 1
    return Table([Row(o, cells[image], _names(cells[label], delimiter, o)) for o, cells in lines])


def _delimiter(text: str) -> str:
    """The character that parts the first line's cells so that the first is a photo or a known header, else any."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    found = [mark for mark in _JOINERS if mark in first] or [","]
    for mark in found:
        cell = first.split(mark)[0].strip().strip('"').casefold()
        if cell in IMAGE_KEYS | LABEL_KEYS or cell.endswith(SUFFIXES):
            return mark
    return found[0]


def _lines(text: str, file: str, delimiter: str) -> list[_Line]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        lines = [_Line(f"{file} line {reader.line_num}", cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise StclError(f"{file} line {reader.line_num}: is not CSV ({error}); correct it") from error
    if not lines:
        raise StclError(f"{file}: is empty; write a line 'image,labels' for each photo")
    width = len(lines[0].cells)
    for origin, cells in lines:
        if len(cells) != width or width < 2:
            cure = "write image,class;class and put names with a comma into quotes"
            raise StclError(f"{origin}: has {len(cells)} columns instead of {max(width, 2)}; {cure}")
    return lines


def _keys(line: _Line) -> list[str]:
    return [cell.strip().casefold() for cell in line.cells]


def _names(cell: str, delimiter: str, origin: str) -> list[str]:
    """Class names in a cell; Label Studio writes several choices, and regions, as JSON."""
    if cell.startswith(('{"', "[{", '["')):
        try:
            return class_names(json.loads(cell), origin)
        except (ValueError, RecursionError):
            pass  # a name may start with a bracket
    return split_names(cell, _JOINERS[delimiter])


def _all_flags(lines: list[_Line]) -> bool:
    return all(_FLAGS.issuperset(_keys(line)[1:]) for line in lines)


def _is_one_column(lines: list[_Line]) -> bool:
    """Whether two columns are an image and a class name with 0 and 1 below, not pairs with classes called 0 and 1."""
    header = _keys(lines[0])[1]
    return len(lines) > 1 and header not in LABEL_KEYS | _FLAGS and _all_flags(lines[1:])


def _columns(path: Path, lines: list[_Line], classes: Sequence[str] | None) -> Table:
    origin, header = lines[0]
    names = [clean_name(cell) for cell in header[1:]]
    if _FLAGS.issuperset(_keys(lines[0])[1:]):  # no header: the columns are the classes in their order
        if classes is None or len(classes) != len(names):
            raise StclError(
                f"{shown(path)}: {len(names)} columns of 0 and 1 without a header; write the class names on top"
            )
        names = list(classes)
    else:
        lines = lines[1:]
        columns = check_classes([name for name in names if not is_background(name)], origin)
        check_known(columns, columns if classes is None else classes, origin)
    rows = []
    for line in lines:
        flags = _keys(line)[1:]
        wrong = next((cell for cell, flag in zip(line.cells[1:], flags, strict=True) if flag not in _FLAGS), None)
        if wrong is not None:
            cure = "write one of them, or join the classes of an image with ';' in one column"
            raise StclError(f"{line.origin}: '{shown(wrong.strip())}' is neither 0 nor 1; {cure}")
        shows = [name for name, flag in zip(names, flags, strict=True) if flag in _SHOWN]
        rows.append(Row(line.origin, line.cells[0], shows))
    return Table(rows, names)
