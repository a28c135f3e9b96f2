"""CSV and TSV: a photo and its classes a line, or a column of 0 and 1 for each class."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from stcl_cli.data.labels.rows import (
    IMAGE_KEYS,
    LABEL_KEYS,
    Row,
    Table,
    check_known,
    class_names,
    key_of,
    split_names,
    uploaded_file,
)
from stcl_cli.data.matching import SUFFIXES
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import check_classes, clean_name, is_background
from stcl_cli.formats.files import read_text, shown

csv.field_size_limit(2**31 - 1)  # a cell may hold a brush of Label Studio; the file is in memory anyway

_SHOWN = {"1", "1.0", "true"}
_FLAGS = _SHOWN | {"0", "0.0", "false", ""}
_JOINERS = {",": ";|", "\t": ";|", ";": ",|;"}  # what stands between the classes of one cell, which may be quoted
_PYTHON_NAME = re.compile(r"""'([^'\\]*)'|"([^"\\]*)["]""")
# ['cat', "dog's"], as pandas writes a column of lists; ['cat' 'dog'], of arrays.
_PYTHON_LIST = re.compile(rf"[\[({{]\s*(?:(?:{_PYTHON_NAME.pattern})\s*(?:,\s*)?)*[\])}}]")
_SEPARATOR = re.compile(r"sep=([,;\t])\s*", re.IGNORECASE)  # a first line for Excel
_LINES = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")  # with their ends


class _Line(NamedTuple):
    origin: str
    cells: list[str]


def read(path: Path, classes: Sequence[str] | None) -> Table:
    """Lines between commas, tabs or semicolons, header or not.

    Pairs hold a photo and its classes, several joined by ';' or '|' (by ',' too where ';' parts the cells); in a wider
    table the header says which columns those are, and several with classes add up. One-hot columns have the class
    names in the header, or are `classes` in their order.

    Raises:
        StclError: another layout; names file and line. Also while the rows are read.
    """
    text = read_text(path)
    first, end, rest = text.partition("\n")
    told = _SEPARATOR.fullmatch(first)
    text = end + rest if told else text
    lines = _Lines(text, shown(path), told[1] if told else _delimiter(text))
    header = _keys(lines.first())
    if len(header) > 2 and header[0] == "" and header[1] in IMAGE_KEYS:  # the numbers that pandas writes in front
        lines.skip, header = 1, header[1:]
    image = next((column for column, key in enumerate(header) if key in IMAGE_KEYS), None)
    if image is None and "id" in header:
        image = header.index("id")
    labels = [column for column, key in enumerate(header) if key in LABEL_KEYS]
    body = lines.below()
    if image is not None and labels and (len(header) == 2 or not _all_flags(lines.below())):
        labels = _with_names(lines, labels)
    elif len(header) > 2 or _is_one_column(lines):
        return _columns(lines, classes)
    elif image is not None:
        labels = [1 - image]  # whatever that column is called
    elif labels and not any(key.endswith(SUFFIXES) for key in header):
        image = 1 - labels[0]
    else:
        image, labels, body = 0, [1], iter(lines)
    names = _Names(_JOINERS[lines.delimiter])

    def shows(cells: list[str], origin: str) -> list[str]:
        first, *more = (names(cells[column], origin) for column in labels)
        return [*first, *chain(*more)] if more else first  # which other lines share

    return Table(Row(origin, uploaded_file(cells[image]), shows(cells, origin)) for origin, cells in body)


def _delimiter(text: str) -> str:
    """The character that parts the first line's cells so that the first is a photo or a known header, else any."""
    first = next((line[0] for line in _LINES.finditer(text) if line[0].strip()), "")
    found = [mark for mark in _JOINERS if mark in first] or [","]
    for mark in found:
        cell = key_of(first.split(mark)[0].strip().strip('"'))
        if cell in IMAGE_KEYS | LABEL_KEYS or cell.endswith(SUFFIXES):
            return mark
    return found[0]


class _Lines:
    """The lines of a table, read anew each time: all at once they would need ten times as much memory as the file.

    `skip`: columns in front that are left out.
    """

    def __init__(self, text: str, file: str, delimiter: str) -> None:
        self.text, self.file, self.delimiter, self.skip = text, file, delimiter, 0

    def __iter__(self) -> Iterator[_Line]:
        reader = csv.reader((line[0] for line in _LINES.finditer(self.text)), delimiter=self.delimiter)
        width = 0
        try:
            for cells in reader:
                if not any(map(str.strip, cells)):
                    continue
                width = width or len(cells)
                origin = f"{self.file} line {reader.line_num}"
                if len(cells) != width or width < 2:
                    cure = "write image,class;class and put names with a comma into quotes"
                    raise StclError(f"{origin}: has {len(cells)} columns instead of {max(width, 2)}; {cure}")
                yield _Line(origin, cells[self.skip :])
        except csv.Error as error:
            raise StclError(f"{self.file} line {reader.line_num}: is not CSV ({error}); correct it") from error

    def first(self) -> _Line:
        """StclError if there is none."""
        for line in self:
            return line
        raise StclError(f"{self.file}: is empty; write a line 'image,labels' for each photo")

    def below(self) -> Iterator[_Line]:
        """All but the first."""
        return islice(self, 1, None)


def _keys(line: _Line) -> list[str]:
    return [key_of(cell) for cell in line.cells]


class _Names:
    """Class names in a cell; cells that say the same, of millions, share them."""

    def __init__(self, joiners: str) -> None:
        self.split = lru_cache(partial(split_names, joiners=joiners))

    def __call__(self, cell: str, origin: str) -> list[str]:
        if cell.startswith(('{"', "[{", '["')):  # Label Studio writes several choices, and regions, as JSON
            try:
                return class_names(json.loads(cell), origin)
            except (ValueError, RecursionError):
                pass  # a name may start with a bracket
        if _PYTHON_LIST.fullmatch(cell):
            return [clean_name(one or other) for one, other in _PYTHON_NAME.findall(cell)]
        return self.split(cell)


def _all_flags(lines: Iterable[_Line]) -> bool:
    return all(_FLAGS.issuperset(_keys(line)[1:]) for line in lines)


def _with_names(lines: _Lines, columns: list[int]) -> list[int]:
    """Of several columns with classes those that hold names: the others have the same ones' numbers."""
    if len(columns) > 1:
        named = [c for c in columns if not all(re.fullmatch(r"\s*[\d.]*\s*", line.cells[c]) for line in lines.below())]
        columns = named or columns[:1]
    return columns


def _is_one_column(lines: _Lines) -> bool:
    """Whether two columns are an image and a class name with 0 and 1 below, not pairs with classes called 0 and 1."""
    some = next(lines.below(), None) is not None
    return some and _keys(lines.first())[1] not in LABEL_KEYS | _FLAGS and _all_flags(lines.below())


def _columns(lines: _Lines, classes: Sequence[str] | None) -> Table:
    origin, header = lines.first()
    names = [clean_name(cell) for cell in header[1:]]
    if _FLAGS.issuperset(_keys(lines.first())[1:]):  # no header: the columns are the classes in their order
        if classes is None or len(classes) != len(names):
            raise StclError(
                f"{lines.file}: {len(names)} columns of 0 and 1 without a header; write the class names on top"
            )
        return Table((_flagged(line, classes) for line in lines), list(classes))
    columns = check_classes([name for name in names if not is_background(name)], origin)
    check_known(columns, columns if classes is None else classes, origin)
    return Table((_flagged(line, names) for line in lines.below()), names)


def _flagged(line: _Line, names: Sequence[str]) -> Row:
    flags = _keys(line)[1:]
    wrong = next((cell for cell, flag in zip(line.cells[1:], flags, strict=True) if flag not in _FLAGS), None)
    if wrong is not None:
        cure = "write one of them, or join the classes of an image with ';' in one column"
        raise StclError(f"{line.origin}: '{shown(wrong.strip())}' is neither 0 nor 1; {cure}")
    return Row(line.origin, line.cells[0], [name for name, flag in zip(names, flags, strict=True) if flag in _SHOWN])
