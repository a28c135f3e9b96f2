"""Files that appear whole or not at all, text of any usual encoding, and JSON that other tools can read."""

from __future__ import annotations

import codecs
import errno
import json
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stcl_cli.errors import PhotoError, StclError
from stcl_cli.wording import shown

LOCK = ".stcl-lock"  # in every output folder, see formats/locks.py

_GO_ON = "then go on with --resume (stcl run: with the same again)"
_CURES = {
    errno.ENOSPC: f"free some space on that disk, {_GO_ON}",
    errno.EDQUOT: f"free some of your quota on that disk, {_GO_ON}",
    errno.EFBIG: f"raise the limit on file sizes (ulimit -f), {_GO_ON}",
    errno.ENAMETOOLONG: "shorten the photo's name",
}
# foo.jpg beside a folder foo.png: the one's mask is called like the other's folder.
_TAKEN = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
_CURES |= dict.fromkeys(_TAKEN, "another output has this name or lies in a folder of it; rename one photo")
_OF_ONE_PHOTO = {errno.ENAMETOOLONG, *_TAKEN}  # the others' names may do


def output_path(folder: str | os.PathLike[str], name: str, suffix: str) -> Path:
    """Where the output of the photo called `name` goes: `suffix` is appended, never put in place of a dotted part."""
    return Path(folder, name + suffix)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there becomes `path` when the block ends well.

    The temporary file is hidden, so no listing takes one left by a killed run for a result; on any error it is
    removed. Missing parent folders are made.

    Raises:
        StclError: the disk is full, the folder is not writable, the name is too long (any OSError in the block).
    """
    path = Path(path)
    temporary = path.parent / f".stcl-{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # the error that led here is the one to report
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise write_error(path, error) from error
        raise


@contextmanager
def utf8_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """Another path of the file where its own is not UTF-8, as an old disk's umlauts are not: safetensors wants that."""
    text = os.fspath(path)
    if text.encode(errors="replace").decode() == text:
        yield text
    else:
        with open(text, "rb") as file:
            yield f"/dev/fd/{file.fileno()}"


def remove_temporary_files(folder: Path) -> None:
    """Delete what killed runs left half written under `folder`; not in folders inside that have a lock of their own.

    Raises:
        OSError: one cannot be deleted.
    """
    for root, folders, files in os.walk(folder):
        if LOCK in files and Path(root) != folder:
            folders.clear()
            continue
        for name in files:
            if name.startswith(".stcl-") and name.endswith(".tmp"):
                os.unlink(os.path.join(root, name))


def write_error(path: str | os.PathLike[str], error: OSError) -> StclError:
    """The one line that says why `path` was not written, and the cure."""
    cure = _CURES.get(error.errno or 0, "check the folder's permissions or choose another one with -o")
    kind = PhotoError if error.errno in _OF_ONE_PHOTO else StclError
    return kind(f"{shown(path)}: cannot be written ({error.strerror or error}); {cure}")


def read_text(path: str | os.PathLike[str], undecodable: str = "strict") -> str:
    """Text of a small file in UTF-8 or UTF-16, with or without a byte order mark.

    Args:
        undecodable: what becomes of bytes that are no UTF-8, as in `bytes.decode`; "surrogateescape" suits lists
            of file names.

    Raises:
        StclError: the file is missing, unreadable or in another encoding.
    """
    try:
        return decode(Path(path).read_bytes(), undecodable)
    except OSError as error:
        raise StclError(f"{shown(path)}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        excel = " (in Excel: CSV UTF-8)" if Path(path).suffix.lower() == ".csv" else ""
        raise StclError(
            f"{shown(path)} line {line}: is no UTF-8 text ({error.reason}); save it as UTF-8{excel}"
        ) from error


def check_readable(path: str | os.PathLike[str]) -> None:
    """StclError, with the system's reason, for a file that may not be read: safetensors says that it is not there."""
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        raise StclError(f"{shown(path)}: cannot be read ({error.strerror}); check its permissions") from error


def decode(data: bytes, undecodable: str = "strict") -> str:
    """`read_text` of bytes already read, such as stdin's."""
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16") if is_utf16 else data.decode("utf-8-sig", undecodable)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON text that any parser accepts: NaN and infinities become null, paths strings, numpy numbers plain ones."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=indent)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def json_bytes(value: Any, indent: int | None = None) -> bytes:
    """UTF-8 of `to_json` with an end of line. A byte that no file name should hold leaves as its JSON escape."""
    return (to_json(value, indent) + "\n").encode("utf-8", "backslashreplace")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(json_bytes(value, indent=2))


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value in a JSON file.

    Raises:
        StclError: the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise StclError(f"{shown(path)}: is not JSON ({error}); correct it or write it anew") from error
