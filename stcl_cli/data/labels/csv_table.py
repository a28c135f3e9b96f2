"""CSV and TSV: a photo and its classes a line, or a column of 0 and 1 for each class."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path

from stcl_cli.data.labels.csv_lines import JOINERS, Line, Lines, read_lines
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
from stcl_cli.wording import shown

# What says in a class's column that a photo shows it or not: Excel writes TRUE, FALSE and 1.0 in its own language.
# fmt: off
_SHOWN = frozenset({
    "1", "1.0", "1,0", "true", "yes", "y", "x", "wahr", "vrai", "vero", "verdadero", "verdadeiro", "waar",
    "ja", "oui", "sì", "sí", "si", "sim", "tak",
})
_NOT_SHOWN = frozenset({
    "0", "0.0", "0,0", "false", "no", "n", "falsch", "faux", "falso", "onwaar",
    "nein", "non", "não", "nee", "nej", "nie", "-",
})
# What pandas, R, Excel or a person writes into an empty cell; in these spellings alone, as a class may be called Na.
NOTHING = frozenset({
    "NaN", "nan", "NAN", "None", "none", "NONE", "null", "Null", "NULL", "N/A", "n/a", "#N/A", "NA", "<NA>",
})
# fmt: on
_EMPTY = frozenset({"", *map(key_of, NOTHING)})
_READ = _SHOWN | _NOT_SHOWN | {""}
_FLAGS = _READ | _EMPTY  # what tells that a column is a class's; NaN in it is refused, as nobody knows what it says
# Flags that nobody takes for a class's name.
_NUMBERS = frozenset({"1", "1.0", "1,0", "true", "0", "0.0", "0,0", "false", ""})
_NUMBERING = IMAGE_KEYS | {"", "id", "index", "#", "nr", "unnamed:_0"}  # of columns before the photo's
_PYTHON_NAME = re.compile(r"""'([^'\\]*)'|"([^"\\]*)["]""")
# ['cat', "dog's"], as pandas writes a column of lists; ['cat' 'dog'], of arrays.
_PYTHON_LIST = re.compile(rf"[\[({{]\s*(?:(?:{_PYTHON_NAME.pattern})\s*(?:,\s*)?)*[\])}}]")


def read(path: Path, classes: Sequence[str] | None) -> Table:
    """Lines between commas, tabs or semicolons, header or not.

    Pairs hold a photo and its classes, several joined by ';' or '|' (by ',' too where ';' parts the cells), or a photo
    and whether it shows the one class in the header; in a wider table the header says which columns those are, and
    several with classes add up. One-hot columns have the class names in the header, or are `classes` in their order.

    Raises:
        StclError: another layout; names file and line. Also while the rows are read.
    """
    lines = read_lines(path)
    header = lines.first().keys
    image = _photo_column(lines, header)
    if image and len(header) > image + 1 and _NUMBERING.issuperset(header[:image]):
        lines.skip, header, image = image, header[image:], 0
    labels = _label_columns(lines, header)
    body = lines.below()
    if image is not None and labels:
        pass
    elif len(header) > 2 or _is_one_class(lines, image or 0, classes):
        return _columns(lines, image or 0, classes)
    elif image is not None:
        labels = [1 - image]  # whatever that column is called
    elif labels and not _holds_files(header):
        image = 1 - labels[0]
    else:
        image, labels, body = 0, [1], iter(lines)
    names = _Names(JOINERS[lines.delimiter], classes)

    def shows(cells: list[str], origin: str) -> list[str]:
        first, *more = (names(cells[column], origin) for column in labels)
        return [*first, *chain(*more)] if more else first  # which other lines share

    return Table(Row(origin, uploaded_file(cells[image]), shows(cells, origin)) for origin, cells in body)


def _holds_files(keys: Iterable[str]) -> bool:
    return any(key.endswith(SUFFIXES) for key in keys)


class _Names:
    """Class names in a cell; cells that say the same, of millions, share them."""

    def __init__(self, joiners: str, classes: Sequence[str] | None) -> None:
        self.split = lru_cache(partial(split_names, joiners=joiners))
        self.nothing = NOTHING.difference(classes or ())

    def __call__(self, cell: str, origin: str) -> list[str]:
        if cell.strip() in self.nothing:
            return []
        if cell.startswith(('{"', "[{", '["')):  # Label Studio writes several choices, and regions, as JSON
            try:
                return class_names(json.loads(cell), origin)
            except (ValueError, RecursionError):
                pass  # a name may start with a bracket
        if _PYTHON_LIST.fullmatch(cell):
            return [clean_name(one or other) for one, other in _PYTHON_NAME.findall(cell)]
        return self.split(cell)


def _photo_column(lines: Lines, header: list[str]) -> int | None:
    """The column with a known word on top, of several the first with a file's name below; None for no such word.

    The first column where that alone holds a file's name, such as of `bild,path`.
    """
    if _holds_files(header):  # which is none
        return None
    known = [column for column, key in enumerate(header) if key in IMAGE_KEYS]
    known = known or [column for column, key in enumerate(header) if key == "id"]
    first = next(lines.below(), None)
    files = [column for column, key in enumerate(first.keys) if key.endswith(SUFFIXES)] if first else []
    if found := [column for column in known if column in files]:
        return found[0]
    if 0 in files and (known or len(header) > 2):
        return 0
    return known[0] if known else None


def _label_columns(lines: Lines, header: list[str]) -> list[int]:
    """The columns with names of classes; none where columns of 0 and 1 belong to classes that are called so."""
    columns = [column for column, key in enumerate(header) if key in LABEL_KEYS]
    if len(header) == 2:
        return columns
    if columns and _all_flags(lines, range(1, len(header)), _NUMBERS):
        columns = []
    if len(columns) > 1:  # those that hold names: the others have the same ones' numbers
        named = [c for c in columns if not all(re.fullmatch(r"\s*[\d.]*\s*", line.cells[c]) for line in lines.below())]
        columns = named or columns[:1]
    numbered = [column for column, key in enumerate(header) if _is_numbered(key)]
    return columns if _all_flags(lines, numbered, _FLAGS) else columns + numbered


def _is_numbered(key: str) -> bool:
    """label2, label_2, or label.2 of pandas."""
    return key not in LABEL_KEYS and key.rstrip("0123456789").rstrip("_.") in LABEL_KEYS


def _all_flags(lines: Lines, columns: Sequence[int], flags: frozenset[str]) -> bool:
    return all(key_of(line.cells[column]) in flags for line in lines.below() for column in columns)


def _is_one_class(lines: Lines, image: int, classes: Sequence[str] | None) -> bool:
    """Whether of two columns one has a class's name on top and flags below, or scores, which then are refused.

    Else they are pairs: with names of classes, or their numbers.
    """
    header = lines.first().keys
    if _holds_files(header) or header[1 - image] in LABEL_KEYS or not _has_names(header, image):
        return False
    told = False
    for line in lines.below():
        cell = line.cells[1 - image]
        key = key_of(cell)
        if not (key in _FLAGS or _is_score(key)) or clean_name(cell) in (classes or ()):
            return False
        told = told or key not in _EMPTY
    return told


def _is_score(key: str) -> bool:
    """0.93, and 0,93 of Excel in German; 2.0 may be a class's number."""
    try:
        return not float(key.replace(",", ".")).is_integer() or "," in key
    except ValueError:
        return False


def _has_names(keys: list[str], image: int) -> bool:
    """Whether the first line names the classes of the columns; else it has a photo's flags. A class may be called x."""
    flags = _NUMBERS if keys[image] in IMAGE_KEYS else _FLAGS
    return not flags.issuperset(_without(keys, image))


def _without(cells: list[str], column: int) -> list[str]:
    return cells[:column] + cells[column + 1 :]


def _columns(lines: Lines, image: int, classes: Sequence[str] | None) -> Table:
    origin, header = lines.first()
    names = [clean_name(cell) for cell in _without(header, image)]
    if not _has_names(lines.first().keys, image):  # no header: the columns are the classes in their order
        if classes is None or len(classes) != len(names):
            raise StclError(
                f"{lines.file}: {len(names)} columns of 0 and 1 without a header; write the class names on top"
            )
        return Table((_flagged(line, image, classes, "the first") for line in lines), list(classes))
    columns = check_classes([name for name in names if not is_background(name)], origin)
    check_known(columns, columns if classes is None else classes, origin)
    photos = f"'{shown(header[image].strip())}'"
    return Table((_flagged(line, image, names, photos) for line in lines.below()), names)


def _flagged(line: Line, image: int, names: Sequence[str], photos: str) -> Row:
    """`photos`: the column that is taken for the photos', in a message."""
    cells = _without(line.cells, image)
    flags = [key_of(cell) for cell in cells]
    wrong = next((cell for cell, flag in zip(cells, flags, strict=True) if flag not in _READ), None)
    if wrong is not None:
        cure = "write one of them, or join the classes of an image with ';' in a column called labels"
        raise StclError(
            f"{line.origin}: '{shown(wrong.strip())}' is neither 0 nor 1; {cure} (column of the photos: {photos})"
        )
    shows = [name for name, flag in zip(names, flags, strict=True) if flag in _SHOWN]
    return Row(line.origin, line.cells[image], shows)
