"""Looking at the values of a config, from a file or a command line: what one takes the other takes too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

# Beyond it a float is no longer an exact number, and nothing is meant so; of whole ones, --seed takes any of 64 bits.
LARGEST, LARGEST_WHOLE = 2**53, 2**63


def check_values(config: Any) -> None:
    """Look at the values of a config: types, choices and ranges, and whether a number is one that can be meant.

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
        there = len(values) > 0 or not item.default  # no list that has to hold something is empty
        right = (
            there
            and _is_of(value, hints[item.name])
            and all(part is None or _is_within(part, **meta["range"]) for part in values if "range" in meta)
            and all(part in meta["choices"] for part in values if "choices" in meta)
        )
        if not right:
            raise ValueError(f"{item.name} is {value!r}"[:80])


def _is_within(
    number: float,
    min: float | None = None,
    max: float | None = None,
    min_open: bool = False,
    max_open: bool = False,
) -> bool:
    """Whether a number is one that can be meant, and in a range, whose names are click's."""
    above = min is None or (number > min if min_open else number >= min)
    below = max is None or (number < max if max_open else number <= max)
    return abs(number) < (LARGEST_WHOLE if isinstance(number, int) else LARGEST) and above and below  # false for NaN


def _is_of(value: Any, hint: Any) -> bool:
    if isinstance(hint, UnionType):
        return any(_is_of(value, part) for part in get_args(hint))
    if get_origin(hint) is tuple:
        parts = [part for part in get_args(hint) if part is not Ellipsis]
        if not isinstance(value, list | tuple) or (Ellipsis not in get_args(hint) and len(value) != len(parts)):
            return False
        return all(_is_of(part, parts[0]) for part in value)
    return type(value) is hint or (hint is float and type(value) is int)
