"""The commands: options made from config.py, then the stage. Imports no torch, so that --help is instant."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from stcl_cli import __version__, config
from stcl_cli.errors import EXIT_ERROR, EXIT_SKIPPED, StclError

_SCALARS = {str: str, int: int, float: float, bool: bool}


def options_of(config_class: type) -> Callable:
    """Decorator: one click option (or argument) for each field of a config dataclass."""
    hints = typing.get_type_hints(config_class)

    def decorate(function: Callable) -> Callable:
        for field in reversed(dataclasses.fields(config_class)):
            function = _parameter(field, hints[field.name])(function)
        return function

    return decorate


def _parameter(field: dataclasses.Field, hint: Any) -> Callable:
    meta = field.metadata
    required = field.default is dataclasses.MISSING
    if meta.get("positional"):
        return click.argument(field.name, metavar=field.name.upper())
    settings: dict[str, Any] = {"help": meta["help"], "required": required, "metavar": meta.get("metavar")}
    if not required:
        settings["default"] = field.default
        settings["show_default"] = field.default is not None and field.default is not False
    flag = "--" + field.name.replace("_", "-")
    if hint is bool:
        if field.default:
            flag = f"{flag}/--no-{flag[2:]}"
        else:
            settings["is_flag"] = True
    elif meta.get("choices"):
        settings["type"] = click.Choice(meta["choices"])
    else:
        kind, count = _value_type(hint)
        settings["type"] = kind
        if meta.get("multiple"):
            settings["multiple"] = True
        elif count > 1:
            settings["nargs"] = count
    names = [meta["short"], flag] if "short" in meta else [flag]
    return click.option(*names, field.name, **settings)


def _value_type(hint: Any) -> tuple[type, int]:
    """`int | None` -> (int, 1); `tuple[float, float]` -> (float, 2)."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if typing.get_origin(hint) is tuple:
        parts = [part for part in typing.get_args(hint) if part is not Ellipsis]
        return _SCALARS[parts[0]], len(parts)
    return _SCALARS[hint], 1


def _read_config(context: click.Context, parameter: click.Parameter, path: str | None) -> None:
    """--config: the values of an earlier run become this run's defaults; what is given on the command line wins."""
    if path is None:
        return
    file = Path(path) / "config.json" if Path(path).is_dir() else Path(path)
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        command = values.pop("command")
        values.pop("stcl", None)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise click.BadParameter(f"{file} is not a config.json of stcl ({error.__class__.__name__}).") from error
    if command != context.info_name:
        raise click.BadParameter(f"{file} was written by `stcl {command}`, not by `stcl {context.info_name}`.")
    known = {p.name for p in context.command.params}
    if unknown := sorted(set(values) - known):
        raise click.BadParameter(f"{file} holds {unknown[0]!r}, which `stcl {command}` does not know.")
    # How the folder was entered is not part of what was run.
    context.default_map = {k: v for k, v in values.items() if v is not None and k not in ("resume", "overwrite")}


def _command(config_class: type, stage: str, *, name: str) -> Callable:
    def decorate(function: Callable) -> click.Command:
        @main.command(name, help=function.__doc__)
        @click.option(
            "--config",
            type=str,
            metavar="FILE",
            is_eager=True,
            expose_value=False,
            callback=_read_config,
            help="config.json of an earlier output folder: repeats it; other options override.",
        )
        @options_of(config_class)
        def run(**values: Any) -> None:
            for field in dataclasses.fields(config_class):
                if field.metadata.get("path") and values[field.name] is not None:
                    values[field.name] = str(values[field.name])
            _finish(function(config_class(**values), importlib.import_module(f"stcl_cli.stages.{stage}")))

        return run

    return decorate


def _finish(result: Any) -> None:
    """Data goes to stdout; exit 3 tells a shell script that some inputs were skipped."""
    if result.summary is not None:
        click.echo(json.dumps(result.summary, ensure_ascii=False))
    if result.skipped:
        raise SystemExit(EXIT_SKIPPED)


class _Main(click.Group):
    """Turns what a user can cure into one line on stderr and exit 1; anything else is a bug and keeps its traceback."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except StclError as error:
            click.echo(f"stcl: {error}", err=True)
            raise SystemExit(EXIT_ERROR) from error
        except BrokenPipeError:
            sys.stderr.close()
            raise SystemExit(EXIT_ERROR) from None


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="stcl")
def main() -> None:
    """Image-level labels in, pixel masks and a segmentation model out.

    \b
    stcl train photos --labels labels.csv -o run
    stcl cam photos -m run --labels labels.csv -o cams
    stcl refine cams --images photos -o masks
    stcl segtrain photos --masks masks --init run -o seg
    stcl predict photos -m seg -o predictions

    Exit codes: 0 done, 1 error, 2 usage, 3 finished but some inputs were skipped (see failed.jsonl).
    """


@_command(config.TrainConfig, "train", name="train")
def train(settings: config.TrainConfig, stage: Any) -> Any:
    """Train the STCL classification network on photos and image-level labels."""
    return stage.run(settings)


@_command(config.CamConfig, "cam", name="cam")
def cam(settings: config.CamConfig, stage: Any) -> Any:
    """Write a class activation map for every photo."""
    return stage.run(settings)


@_command(config.RefineConfig, "refine", name="refine")
def refine(settings: config.RefineConfig, stage: Any) -> Any:
    """Turn class activation maps into masks that follow the photo's edges."""
    return stage.run(settings)


@_command(config.SegtrainConfig, "segtrain", name="segtrain")
def segtrain(settings: config.SegtrainConfig, stage: Any) -> Any:
    """Train a segmentation model on photos and masks."""
    return stage.run(settings)


@_command(config.PredictConfig, "predict", name="predict")
def predict(settings: config.PredictConfig, stage: Any) -> Any:
    """Write a mask for every photo with a trained segmentation model."""
    return stage.run(settings)


@_command(config.EvalConfig, "evaluate", name="eval")
def evaluate(settings: config.EvalConfig, stage: Any) -> Any:
    """Measure masks against true masks: JSON on stdout, a table on stderr."""
    return stage.run(settings)


@_command(config.DemoConfig, "demo", name="demo")
def demo(settings: config.DemoConfig, stage: Any) -> Any:
    """Draw a scene set, run the whole chain on it on the CPU, and leave pictures to look through."""
    return stage.run(settings)
