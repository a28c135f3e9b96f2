"""Names and numbers as they can stand in a one-line message."""

from __future__ import annotations

import os
from collections.abc import Sequence


def printable(text: str) -> str:
    """`text` in one line: control characters, undecodable bytes and what no font has are escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def first_line(error: BaseException) -> str:
    """What a library says went wrong, without what it adds below; its class where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def shown(path: str | os.PathLike[str]) -> str:
    """`path` as it can stand in a one-line message: control characters and undecodable bytes are escaped."""
    return printable(os.fspath(path))


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first of these names, for a message."""
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(map(shown, names[:limit])) + more


def counted(number: int, noun: str) -> str:
    """`1 photo`, `2 photos`, `2 classes`."""
    if number != 1:
        noun += "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}"
