"""The commands: options made from config, then the stage. Imports no torch, so that --help is instant."""

from __future__ import annotations

import dataclasses
import errno
import importlib
import os
import shlex
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

import click

from stcl_cli import __version__, config
from stcl_cli.errors import EXIT_ERROR, EXIT_SKIPPED, EXIT_STOPPED, EXIT_TERMINATED, StclError, is_out_of_memory
from stcl_cli.formats.files import json_bytes, to_json
from stcl_cli.formats.runs import CONFIG, FAILED
from stcl_cli.options import config_option, help_of, options_of, verbosity_options
from stcl_cli.runtime.launch import launch, under_torchrun


def _command(config_class: type, stage: str, *, name: str, items: bool = False) -> Callable:
    """Decorator: a command with the options of `config_class`. With `items` it prints each finished item on stdout."""

    def decorate(function: Callable) -> click.Command:
        json_option = click.option(
            "--json", "as_json", is_flag=True, help="Print a JSON object for each output, not its path."
        )
        has_folder = "overwrite" in config_class.__dataclass_fields__  # and with it a config.json

        @main.command(name, help=help_of(function, config_class))
        @(config_option(config_class) if has_folder else lambda function: function)
        @options_of(config_class)
        @(json_option if items else lambda function: function)
        @verbosity_options
        def run(as_json: bool = False, **values: Any) -> None:
            console = importlib.import_module("stcl_cli.console")
            verbosity = click.get_current_context().meta.get("stcl.verbosity", 0)
            console.set_verbosity(-1 if launch().rank else verbosity)  # of processes started together, one speaks
            if launch().ranks > 1:  # before torch: of a process that has gone the others would print C++ frames
                os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
            click.get_current_context().meta["stcl.at_work"] = name, values
            settings = config_class(**values)
            try:
                config.check_values(settings)  # as of a file: what is written has to be read again
            except ValueError as error:
                raise click.UsageError(f"{error}, which it cannot be") from error
            console.detail(f"stcl {__version__} {name} {to_json(dataclasses.asdict(settings))}")
            listeners = (_print_item(as_json),) if items else ()
            before = signal.signal(signal.SIGTERM, _terminate)
            try:
                result = function(settings, importlib.import_module(f"stcl_cli.stages.{stage}"), *listeners)
                if result.next:  # a list on stdin is used up, so PHOTOS stands for it
                    words = ("PHOTOS" if word == "-" else str(word) for word in result.next)
                    console.say(f"next: stcl {shlex.join(words)}")
                _finish(result, values.get("output"))
            finally:
                signal.signal(signal.SIGTERM, before)

        return run

    return decorate


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


def _terminate(number: int, frame: Any) -> None:
    raise _Terminated


def _print_item(as_json: bool) -> Callable[[Mapping[str, Any]], None]:
    """A function that prints an item on stdout at once, so that a pipe can go on with it."""

    def done(item: Mapping[str, Any]) -> None:
        line = json_bytes(item) if as_json else os.fsencode(item["output"]) + b"\n"
        if sys.stdout.isatty():  # through sys.stdout, for which rich stands in, to put the line above its progress bar
            sys.stdout.write(line.decode("utf-8", "backslashreplace"))
        else:
            _echo(line)

    return done


def _echo(line: bytes) -> None:
    """On stdout, at once. StclError if what it goes to is full."""
    try:
        click.echo(line, nl=False)
    except OSError as error:
        if error.errno == errno.EPIPE:  # as of `| head`, which click knows
            raise
        raise StclError(
            f"stdout: cannot be written ({error.strerror}); free some space, or send it elsewhere"
        ) from error


def _say_how_to_go_on(command: str, values: Mapping[str, Any]) -> None:
    if launch().rank:
        return
    how, output = "", values.get("output")
    if output and os.path.isfile(os.path.join(output, CONFIG)):
        start = "start as many processes of" if launch().ranks > 1 else "go on with"
        how = f"; its files are whole, {start}: stcl {command} --config {shlex.quote(output)}"
        how += " --resume" if "resume" in values else ""  # stcl run goes on of its own accord, with the list it kept
        how += f" --shard {values['shard']}" if values.get("shard") else ""
        how += ", with the same list on stdin" if "resume" in values and values.get("images") == "-" else ""
    click.echo(f"stcl: stopped{how}", err=True)


def _finish(result: Any, output: str | None) -> None:
    """Data goes to stdout; exit 3 tells a shell script that some inputs were skipped.

    Not of processes that were started together: torchrun, and srun as examples/slurm.sh calls it, take it for a crash
    and end those that are still at work.
    """
    if result.summary is not None:
        _echo(json_bytes(result.summary))  # UTF-8 whatever the terminal speaks, NaN as null
    if result.skipped:
        inputs = "1 input was" if result.skipped == 1 else f"{result.skipped} inputs were"
        log = os.path.join(output, FAILED) if output else ""
        why = f"; {log} says why" if os.path.isfile(log) else ""
        click.echo(f"stcl: {inputs} skipped{why}", err=True)
        if not under_torchrun() and launch().ranks == 1:
            raise SystemExit(EXIT_SKIPPED)


def _less_memory(command: click.Command) -> str:
    """The cure, in options that the command has."""
    flags = {flag for parameter in command.params for flag in parameter.opts}
    sizes = [flag for flag in ("--batch-size", "--crop-size", "--max-side", "--workers") if flag in flags]
    if not sizes:
        return "close other programs, or give it fewer photos"
    return f"take less at a time with {', '.join(sizes)}, or try another --device"


class _Main(click.Group):
    """Turns what a user can cure into one line on stderr and exit 1; anything else is a bug and keeps its traceback."""

    def list_commands(self, context: click.Context) -> list[str]:
        """In the order of the chain."""
        return list(self.commands)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except StclError as error:
            click.echo(f"stcl: {error}", err=True)
            raise SystemExit(EXIT_ERROR) from error
        except KeyboardInterrupt as stop:  # also before a stage is at work, and when it has just ended
            _say_how_to_go_on(*context.meta.get("stcl.at_work", ("", {})))
            raise SystemExit(EXIT_TERMINATED if isinstance(stop, _Terminated) else EXIT_STOPPED) from None
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            what = str(error).partition("\n")[0].partition(". ")[0] if "CUDA" in str(error) else "out of memory"
            click.echo(f"stcl: {what}; {_less_memory(self.commands[context.invoked_subcommand or ''])}", err=True)
            raise SystemExit(EXIT_ERROR) from error


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="stcl")
@verbosity_options
def main() -> None:
    """Image-level labels in, pixel masks and a segmentation model out.

    \b
    stcl check photos --labels labels.csv
    stcl train photos --labels labels.csv -o run
    stcl cam photos -m run --labels labels.csv -o cams
    stcl refine cams --images photos -o masks
    stcl segtrain photos --masks masks --init run -o seg
    stcl predict photos -m seg -o predictions

    Or all of it: stcl run photos --labels labels.csv -o out

    Exit codes: 0 done, 1 error, 2 usage, 3 finished but some inputs were skipped (see failed.jsonl).
    """


@_command(config.CheckConfig, "check", name="check")
def check(settings: config.CheckConfig, stage: Any) -> Any:
    """Look at photos, labels and masks, and name what does not fit.

    Looks as the other commands will, which skip such things; nothing is written.
    """
    return stage.run(settings)


@_command(config.RunConfig, "run", name="run", items=True)
def run(settings: config.RunConfig, stage: Any, done: Any) -> Any:
    """Run the whole chain: train, cam, refine, segtrain, predict.

    The same command again goes on where it stopped.

    \b
    The output folder holds
      run          the classification network
      cams         class activation maps
      masks        masks made from the labels
      seg          the segmentation model
      predictions  its mask for every photo
    """
    return stage.run(settings, done)


@_command(config.TrainConfig, "train", name="train")
def train(settings: config.TrainConfig, stage: Any) -> Any:
    """Train the STCL network on photos and image-level labels."""
    return stage.run(settings)


@_command(config.CamConfig, "cam", name="cam", items=True)
def cam(settings: config.CamConfig, stage: Any, done: Any) -> Any:
    """Write a class activation map for every photo."""
    return stage.run(settings, done)


@_command(config.RefineConfig, "refine", name="refine", items=True)
def refine(settings: config.RefineConfig, stage: Any, done: Any) -> Any:
    """Turn class activation maps into masks that follow the edges.

    Masks, drawn roughly or of another tool, may stand in for the maps: see --confidence.
    """
    return stage.run(settings, done)


@_command(config.SegtrainConfig, "segtrain", name="segtrain")
def segtrain(settings: config.SegtrainConfig, stage: Any) -> Any:
    """Train a segmentation model on photos and masks."""
    return stage.run(settings)


@_command(config.PredictConfig, "predict", name="predict", items=True)
def predict(settings: config.PredictConfig, stage: Any, done: Any) -> Any:
    """Write a mask for every photo with a trained segmentation model."""
    return stage.run(settings, done)


@_command(config.ExportConfig, "export", name="export", items=True)
def export(settings: config.ExportConfig, stage: Any, done: Any) -> Any:
    """Write masks as COCO, YOLO, CVAT, PASCAL VOC or NumPy."""
    return stage.run(settings, done)


@_command(config.EvalConfig, "evaluate", name="eval")
def evaluate(settings: config.EvalConfig, stage: Any) -> Any:
    """Measure masks or CAM files against true masks.

    JSON on stdout, a table on stderr; see docs/figures.md for what the figures say.
    """
    return stage.run(settings)


@_command(config.ReportConfig, "report", name="report", items=True)
def report(settings: config.ReportConfig, stage: Any, done: Any) -> Any:
    """Write one HTML page about output folders.

    It shows loss curves, classes, accuracy, photos and what was made of them. FOLDERS are output folders of train, cam,
    refine, segtrain and predict, or folders that hold some, as run leaves one. The page needs no network and shows in
    any browser.
    """
    return stage.run(settings, done)


@_command(config.BenchConfig, "bench", name="bench")
def bench(settings: config.BenchConfig, stage: Any) -> Any:
    """Measure how fast the stages run on this machine.

    WHAT is train, cam, refine, segtrain or predict, or several; all if it is left out. Each runs on photos and weights
    made up for it, and gives a JSON object on stdout. efficiency is gflop_per_photo x photos_per_second /
    matrix_rate_gflops: the share of the machine's rate of matrix products, in the same precision, that went into what
    the method needs. loader_ms is CPU time a photo.
    """
    return stage.run(settings, _print_item(as_json=True))


@_command(config.DemoConfig, "demo", name="demo")
def demo(settings: config.DemoConfig, stage: Any) -> Any:
    """Draw scenes, run the whole chain on them, leave pictures."""
    return stage.run(settings)
