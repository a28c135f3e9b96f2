"""The lines of a CSV or TSV file, whatever parts their cells."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from stcl_cli.data.labels.rows import IMAGE_KEYS, LABEL_KEYS, key_of
from stcl_cli.data.matching import SUFFIXES
from stcl_cli.errors import StclError
from stcl_cli.formats.files import read_text
from stcl_cli.wording import shown

csv.field_size_limit(2**31 - 1)  # a cell may hold a brush of Label Studio; the file is in memory anyway

# What parts the cells, and then the classes of one cell, which may be quoted.
JOINERS = {",": ";|", "\t": ";|", ";": ",|;"}
_SEPARATOR = re.compile(r"sep=([,;\t])\s*", re.IGNORECASE)  # a first line for Excel
_LINES = re.compile(r"[^\r\n]*(?:\r\n?|\n)|[^\r\n]+")  # with their ends


class Line(NamedTuple):
    origin: str
    cells: list[str]

    @property
    def keys(self) -> list[str]:
        """The cells as words that are looked for."""
        return [key_of(cell) for cell in self.cells]


def read_lines(path: Path) -> Lines:
    """StclError if the file is no text."""
    text = read_text(path)
    first, end, rest = text.partition("\n")
    told = _SEPARATOR.fullmatch(first)
    text = end + rest if told else text
    return Lines(text, shown(path), told[1] if told else _delimiter(text))


def _delimiter(text: str) -> str:
    """The character that parts the first line's cells so that the first is a photo or a known header, else any."""
    first = next((line[0] for line in _LINES.finditer(text) if line[0].strip()), "")
    found = [mark for mark in JOINERS if mark in first] or [","]
    for mark in found:
        cell = key_of(first.split(mark)[0].strip().strip('"'))
        if cell in IMAGE_KEYS | LABEL_KEYS or cell.endswith(SUFFIXES):
            return mark
    return found[0]


class Lines:
    """The lines of a table, read anew each time: all at once they would need ten times as much memory as the file.

    `skip`: columns in front that are left out.
    """

    def __init__(self, text: str, file: str, delimiter: str) -> None:
        self.text, self.file, self.delimiter, self.skip = text, file, delimiter, 0

    def __iter__(self) -> Iterator[Line]:
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
                yield Line(origin, cells[self.skip :])
        except csv.Error as error:
            raise StclError(f"{self.file} line {reader.line_num}: is not CSV ({error}); correct it") from error

    def first(self) -> Line:
        """StclError if there is none."""
        for line in self:
            return line
        raise StclError(f"{self.file}: is empty; write a line 'image,labels' for each photo")

    def below(self) -> Iterator[Line]:
        """All but the first."""
        return islice(self, 1, None)
