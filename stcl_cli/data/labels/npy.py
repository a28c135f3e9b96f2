"""The cls_labels.npy of paper repositories: a pickled {photo: one-hot vector}, read without running what is in it."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stcl_cli.data.labels.rows import Row, Table
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import CLASSES, read_classes
from stcl_cli.wording import shown

MAGIC = b"\x93NUMPY"


def read(path: Path, classes: Sequence[str] | None) -> Table:
    """A dictionary of vectors of 0 and 1, in the order of a classes.txt beside the file, else of `classes`.

    Numbers as names are what IRN makes of VOC's: 2007000032 is 2007_000032.

    Raises:
        StclError: anything else is pickled in it, or the vectors are not as long as the list of classes.
    """
    file = shown(path)
    table = _unpickle(path)
    names = read_classes(path.with_name(CLASSES)) if path.with_name(CLASSES).is_file() else classes
    rows = []
    for key, vector in table.items():
        origin = f"{file} key '{shown(str(key))[:80]}'"
        values = _numbers(vector)
        if values is None or not isinstance(key, str | int):
            raise StclError(f"{origin}: is not a photo's name with a vector of numbers; correct it")
        if names is None or len(values) != len(names):
            known = f"{len(names)} names" if names else "no names"
            raise StclError(f"{origin}: {len(values)} numbers, but {known} for them; write a {CLASSES} beside it")
        wrong = values[(values != 0) & (values != 1)]  # NaN among them
        if len(wrong):
            raise StclError(f"{origin}: holds {wrong[0]}; write 1 for shown and 0 for not")
        rows.append(Row(origin, _name(key), [names[number] for number in np.flatnonzero(values)]))
    return Table(rows, names)


def _numbers(vector: Any) -> np.ndarray | None:
    try:
        values = np.asarray(vector.values if isinstance(vector, _Array) else vector)
    except ValueError:  # lists of unequal length
        return None
    return values if values.dtype.kind in "biuf" and values.ndim == 1 else None


def _name(key: str | int) -> str:
    name = str(key)
    return f"{name[:4]}_{name[4:]}" if isinstance(key, int) and re.fullmatch(r"20\d{8}", name) else name


def _unpickle(path: Path) -> dict[Any, Any]:
    try:
        data = io.BytesIO(path.read_bytes())
        version = np.lib.format.read_magic(data)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(data)
        value = _load(data).values if dtype.hasobject and shape == () else None
    except StclError as error:
        raise StclError(f"{shown(path)}: {error}") from error
    except OSError as error:
        raise StclError(f"{shown(path)}: cannot be read ({error.strerror}); check the path") from error
    except Exception as error:  # a broken pickle raises anything
        raise StclError(f"{shown(path)}: is a broken .npy file ({shown(str(error))}); save it again") from error
    if not (isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict)):
        raise StclError(f"{shown(path)}: holds no dictionary; numpy.save one of {{photo: one-hot vector}}")
    return value[0]


# ---- what a pickle may make: stand-ins of ours, which check what they are given; numpy's own are never called --------


class _Dtype:
    """numpy.dtype: numbers, text, or the object array around the dictionary."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        if not re.fullmatch(r"[?bhilqBHILQefd]|b1|[iu][1248]|f[248]|U\d{1,4}|O8?", code):
            raise StclError(f"holds data of type {code!r:.40}, not numbers; {_CURE}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = {"<": "<", ">": ">"}.get(state[1], "=")

    def of(self, data: bytes | str) -> np.ndarray:
        data = data.encode("latin-1") if isinstance(data, str) else data  # text in pickles of Python 2
        return np.frombuffer(data, np.dtype(self.order + self.code))


class _Array:
    """numpy.ndarray under reconstruction."""

    values: Any = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, _, data = state
        if dtype.code[0] == "O":  # the pickled dictionary: [{...}]
            self.values = data
        elif len(shape) == 1 and (values := dtype.of(data)).shape == shape:
            self.values = values
        else:
            raise StclError(f"holds an array of shape {shape!r:.40}, not a vector; {_CURE}")


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return dtype.of(data).item()


def _encode(text: str, encoding: str) -> bytes:  # how protocol 2 writes bytes
    return text.encode({"latin1": "latin-1"}[encoding])


_CURE = "numpy.save a dictionary of {photo: one-hot vector}"
_ALLOWED: dict[str, Callable[..., Any]] = {"_codecs.encode": _encode, "collections.OrderedDict": dict}
for _module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED |= {f"{_module}._reconstruct": _Array, f"{_module}.scalar": _scalar}
_ALLOWED |= {"numpy.ndarray": _Array, "numpy.dtype": _Dtype}


def _load(data: io.BytesIO) -> Any:
    """What the pickle makes. StclError if it would have Python keep room for more places than the file has bytes."""
    start = data.tell()
    size = len(data.getbuffer())
    for operation, place, _ in pickletools.genops(data):
        if "PUT" in operation.name and int(place) > size:
            raise StclError(f"names a place {place} in a file of {size} bytes; do not trust it")
    data.seek(start)
    return _Unpickler(data, encoding="latin-1").load()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Never imports: a name is one of ours or the file is refused."""
        if (found := _ALLOWED.get(f"{module}.{name}")) is None:
            raise StclError(f"wants to run {shown(f'{module}.{name}')}, which no label file needs; do not trust it")
        return found
