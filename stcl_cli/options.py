"""Options of the command line, made from the dataclasses in config. Imports no torch, so that --help is instant."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import click

from stcl_cli.config import check_given
from stcl_cli.errors import StclError
from stcl_cli.formats.runs import read_config
from stcl_cli.wording import printable

ENTERING = ("resume", "overwrite")  # say how a folder is entered, not what is run
_SCALARS = {str: str, int: int, float: float, bool: bool}


def options_of(config_class: type) -> Callable:
    """Decorator: one click option (or argument) for each field of a config dataclass."""
    hints = typing.get_type_hints(config_class)

    def decorate(function: Callable) -> Callable:
        kept = "overwrite" in hints  # in a config.json, of which --config takes a flag that --no-flag has to take back
        for field in reversed(dataclasses.fields(config_class)):
            both_ways = field.default is True or (kept and field.name not in ENTERING)
            function = _parameter(field, hints[field.name], both_ways)(function)
        return function

    return decorate


def help_of(function: Callable, config_class: type) -> str:
    """The docstring of a command, and what its arguments are, of which click says nothing."""
    fields = (field for field in dataclasses.fields(config_class) if field.metadata.get("positional"))
    arguments = (f"{field.name.upper()}: {field.metadata['help']}" for field in fields)
    return "\n\n".join([inspect.cleandoc(function.__doc__ or ""), *arguments])


def _parameter(field: dataclasses.Field, hint: Any, both_ways: bool) -> Callable:
    meta = field.metadata
    required = field.default is dataclasses.MISSING
    if meta.get("positional"):
        if meta.get("multiple"):
            kind = click.Choice(meta["choices"]) if "choices" in meta else click.Path()
            metavar = f"{field.name.upper()}..." if required else f"[{field.name.upper()}]..."
            return click.argument(field.name, metavar=metavar, type=kind, nargs=-1, required=required)
        return click.argument(field.name, metavar=field.name.upper(), type=click.Path())
    settings: dict[str, Any] = {"help": meta["help"], "required": required, "metavar": meta.get("metavar")}
    if not required:
        settings["default"] = field.default
        settings["show_default"] = field.default is not None and field.default is not False
    flag = "--" + field.name.replace("_", "-")
    if hint is bool:
        if both_ways:
            flag = f"{flag}/--no-{flag[2:]}"
        else:
            settings["is_flag"] = True
    elif meta.get("choices"):
        settings["type"] = click.Choice(meta["choices"])
    else:
        kind, count = _value_type(hint)
        settings["type"] = _checked(kind, meta)
        if "range" in meta:
            settings["metavar"] = " ".join([kind.__name__.upper()] * count)
        if meta.get("multiple"):
            settings["multiple"] = True
        elif count > 1:
            settings["nargs"] = count
    names = [meta["short"], flag] if "short" in meta else [flag]
    return click.option(*names, field.name, **settings)


def _checked(kind: type, meta: Mapping[str, Any]) -> type | click.ParamType:
    """The type with its range; paths are completed by shells."""
    if "range" in meta:
        return {int: click.IntRange, float: _FiniteRange}[kind](**meta["range"])
    return click.Path() if meta.get("path") else kind


class _FiniteRange(click.FloatRange):
    """NaN compares with nothing, so click lets it through any range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


def _value_type(hint: Any) -> tuple[type, int]:
    """`int | None` -> (int, 1); `tuple[float, float]` -> (float, 2)."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        parts = [part for part in typing.get_args(hint) if part is not Ellipsis]
        return _SCALARS[parts[0]], len(parts)
    return _SCALARS[hint], 1


def _read_config(config_class: type, context: click.Context, parameter: click.Parameter, path: str | None) -> None:
    """--config: the values of an earlier run become this run's defaults; what is given on the command line wins."""
    if path is None:
        return
    try:
        command, values = read_config(path, context.command.name)
    except StclError as error:
        raise click.BadParameter(str(error)) from error
    if unknown := sorted(values.keys() - config_class.__dataclass_fields__.keys()):
        raise click.BadParameter(f"{path}: holds {unknown[0]!r}, which `stcl {command}` does not know.")
    # How the folder was entered is not part of what was run.
    given = {k: v for k, v in values.items() if v is not None and k not in ENTERING}
    try:
        check_given(config_class, given)
    except ValueError as error:
        raise click.BadParameter(
            printable(f"{path}: {error}, which it cannot be; correct it or take it out.")
        ) from error
    context.default_map = given


def verbosity_options(function: Callable) -> Callable:
    """-q and -v, before or after the name of the command."""

    def remember(context: click.Context, parameter: click.Parameter, given: bool) -> None:
        if given:  # meta is shared by the contexts of the group and the command
            context.meta["stcl.verbosity"] = {"quiet": -1, "verbose": 1}[parameter.name or ""]

    for flag, help in (("verbose", "Every item and every skipped input on stderr."), ("quiet", "Only warnings.")):
        function = click.option(
            f"-{flag[0]}", f"--{flag}", is_flag=True, expose_value=False, callback=remember, help=help
        )(function)
    return function


def config_option(config_class: type) -> Callable:
    """Decorator: --config."""
    return click.option(
        "--config",
        type=click.Path(),
        metavar="FILE",
        is_eager=True,
        expose_value=False,
        callback=functools.partial(_read_config, config_class),
        help="config.json of an earlier output folder: repeats it; other options override.",
    )
