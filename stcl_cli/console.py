"""What people read: everything here goes to stderr, stdout is for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

SECONDS_BETWEEN_LINES = 15.0

console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """One line on stderr; brackets in file names are not markup."""
    console.print(message, markup=False)


class _Rate(ProgressColumn):
    def render(self, task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="dim")


class Meter:
    """Counts finished items: a bar on a terminal, else a line every quarter of a minute."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done, self.first = title, total, done, done
        self.text = ""
        self.started = self.printed = time.monotonic()
        self.bar: Progress | None = None
        if console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                _Rate(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}", style="dim"),
                console=console,
            )
            self.task = self.bar.add_task(title, total=total, completed=done, text="")

    def advance(self, count: int = 1, text: str | None = None) -> None:
        """`text` is shown behind the figures until the next one."""
        self.done += count
        self.text = self.text if text is None else text
        if self.bar is not None:
            self.bar.update(self.task, advance=count, text=self.text)
        elif time.monotonic() - self.printed >= SECONDS_BETWEEN_LINES or self.done >= self.total:
            self.printed = time.monotonic()
            rate = (self.done - self.first) / max(self.printed - self.started, 1e-9)
            left = f"{(self.total - self.done) / rate:.0f} s left" if rate and self.done < self.total else "done"
            say(f"{self.title} {self.done}/{self.total}  {rate:.1f}/s  {left}  {self.text}".rstrip())


@contextmanager
def meter(title: str, total: int, done: int = 0) -> Iterator[Meter]:
    """A Meter that is cleared up whatever happens."""
    gauge = Meter(title, total, done)
    if gauge.bar is None:
        yield gauge
    else:
        with gauge.bar:
            yield gauge
