"""What people read: everything here goes to stderr, stdout is for data."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

SECONDS_BETWEEN_LINES = 15.0

console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
_verbosity = 0


def say(message: str) -> None:
    """One line on stderr; brackets and colons in file names are not markup."""
    console.print(message, markup=False)


def warn(message: str) -> None:
    """One line on stderr, with --quiet too."""
    print(f"stcl: {message}", file=sys.stderr)


def detail(message: str) -> None:
    """One line on stderr with --verbose only."""
    if is_verbose():
        say(message)


def is_verbose() -> bool:
    return _verbosity > 0


def say_table(table: Table) -> None:
    """A table on stderr, at most 80 columns wide; brackets in its cells are not markup."""
    console.print(table, markup=False, soft_wrap=False, width=min(console.width, 80))


def set_verbosity(level: int) -> None:
    """-1: warnings and errors only, 0, or 1: every skipped input and every item as well."""
    global _verbosity
    _verbosity, console.quiet = level, level < 0


def _pace(speed: float) -> str:
    """Items a second, or seconds an item where that says more; nothing before the first."""
    if not speed:
        return ""
    return f"{speed:.1f}/s" if speed >= 0.1 else f"{1 / speed:.0f} s each"


def _time_left(items: int, speed: float) -> str:
    return f"{timedelta(seconds=round(items / speed))} left" if speed else ""


@contextmanager
def quietly() -> Iterator[None]:
    """Inside, `say` says nothing."""
    before, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = before


class _Rate(ProgressColumn):
    def render(self, task) -> Text:
        return Text(_pace(task.speed or 0), style="dim")


class _Rest(ProgressColumn):
    """What is left of the line: where it is narrow, this is cut and nothing else."""

    def render(self, task) -> Text:
        return Text(task.fields["text"], style="dim", no_wrap=True, overflow="ellipsis")


class Meter:
    """Counts finished items: a bar on a terminal, else a line every quarter of a minute."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done, self.first = title, total, done, done
        self.text = ""
        self.pause = 0.0 if _verbosity > 0 else SECONDS_BETWEEN_LINES
        self.started = self.printed = time.monotonic()
        self.bar: Progress | None = None
        if console.is_terminal and not console.is_dumb_terminal and not console.quiet:
            fixed = {"table_column": Column(no_wrap=True)}
            self.bar = Progress(
                TextColumn("{task.description}", **fixed),
                BarColumn(bar_width=24, **fixed),
                MofNCompleteColumn(**fixed),
                _Rate(**fixed),
                TimeRemainingColumn(**fixed),
                _Rest(),
                console=console,
            )
            self.task = self.bar.add_task(title, total=total, completed=done, text="")

    def advance(self, count: int = 1, text: str | None = None) -> None:
        """`text` is shown behind the figures until the next one."""
        self.done += count
        self.text = self.text if text is None else text
        if self.bar is not None:
            self.bar.update(self.task, advance=count, text=self.text)
        elif self.done >= self.total or time.monotonic() - self.printed >= self.pause:
            self.printed = time.monotonic()
            rate = (self.done - self.first) / max(self.printed - self.started, 1e-9)
            left = "done" if self.done >= self.total else _time_left(self.total - self.done, rate)
            say(f"{self.title} {self.done}/{self.total}  {_pace(rate)}  {left}  {self.text}".rstrip())

    def tell(self, text: str) -> None:
        """`text` in place of that of `advance`, until the next item: what goes on between two."""
        if self.bar is not None:
            self.bar.update(self.task, text=text)
        elif time.monotonic() - self.printed >= self.pause:
            self.printed = time.monotonic()
            say(f"{self.title} {self.done}/{self.total}  {text}")


@contextmanager
def meter(title: str, total: int, done: int = 0) -> Iterator[Meter]:
    """A Meter that is cleared up whatever happens."""
    gauge = Meter(title, total, done)
    if gauge.bar is None:
        yield gauge
    else:
        with gauge.bar:
            yield gauge
