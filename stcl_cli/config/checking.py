"""Looking at the values of a config that came from a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints


def check_values(config: Any) -> None:
    """Look at the values of a config that came from a file: types, choices and ranges, as click does on a command line.

    Raises:
        ValueError: one is of another kind; the message names it.
    """
    check_given(type(config), {item.name: getattr(config, item.name) for item in fields(config)})


def check_given(config_class: type, given: Mapping[str, Any]) -> None:
    """`check_values` of some of a config's fields."""
    hints = get_type_hints(config_class)
    for item in fields(config_class):
        if item.name not in given:
            continue
        value, meta = given[item.name], item.metadata
        values = value if isinstance(value, list | tuple) else [value]
        low, high = meta.get("range", {}).get("min"), meta.get("range", {}).get("max")
        there = len(values) > 0 or not item.default  # no list that has to hold something is empty
        right = (
            there
            and _is_of(value, hints[item.name])
            and all(
                (low is None or part is None or part >= low)
                and (high is None or part is None or part <= high)
                and ("choices" not in meta or part in meta["choices"])
                for part in values
            )
        )
        if not right:
            raise ValueError(f"{item.name} is {value!r}"[:80])


def _is_of(value: Any, hint: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_is_of(value, part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        parts = [part for part in get_args(hint) if part is not Ellipsis]
        if not isinstance(value, list | tuple) or (Ellipsis not in get_args(hint) and len(value) != len(parts)):
            return False
        return all(_is_of(part, parts[0]) for part in value)
    return type(value) is hint or (hint is float and type(value) is int)
