"""One input given to a reader: it may take it, or refuse it with one line; it may not do anything else.

STCL_FUZZ sets the number of inputs for each test: 40, or 2,000 for 100,000 and more in all.
"""

from __future__ import annotations

import codecs
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from stcl_cli.errors import StclError

INPUTS = int(os.environ.get("STCL_FUZZ", 40))
fuzz = settings(
    max_examples=INPUTS,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)

SECONDS = 20  # an input that takes longer counts as a hang
ROOM = 4 << 30  # bytes that a reader may ask for beyond what the process has
FORBIDDEN = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.Popen",
    "socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request", "ftplib.connect", "ctypes.dlopen",
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.link", "os.symlink", "os.truncate",
    "shutil.rmtree", "exec", "pickle.find_class",
)  # fmt: skip


class Hang(BaseException):
    """A reader that does not come back."""


class _Counts:
    """Over all readers, by their names."""

    def __init__(self) -> None:
        self.inputs, self.taken, self.crashes, self.hangs, self.executed = (Counter() for _ in range(5))
        self.slowest = (0.0, "")


Counts = _Counts()
_seen: list[str] | None = None  # forbidden events while a reader is at work


def _watch(event: str, arguments: tuple) -> None:
    if _seen is not None and (
        event in FORBIDDEN or (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"))
    ):
        _seen.append(f"{event} {arguments!r}"[:200])


sys.addaudithook(_watch)
for _name in ("utf_16", "utf_16_le", "utf_16_be", "utf_32", "utf_32_le", "utf_32_be", "utf_8_sig"):
    codecs.lookup(_name)  # Python imports them when they are first needed, which is no code of a stranger


@contextmanager
def _limits():
    def hang(number, frame):
        raise Hang

    before = signal.signal(signal.SIGALRM, hang)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM if pages else soft, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attempt(name: str, reader: Callable[[], Any], may: tuple[str, ...] = ()) -> None:
    """AssertionError, or the reader's own error, if it does more than to take or to refuse; `may`: events it may."""
    global _seen
    Counts.inputs[name] += 1
    started, events = time.perf_counter(), []
    with _limits():
        _seen = events
        try:
            reader()
            Counts.taken[name] += 1
        except StclError as error:
            _seen = None
            check_line(name, str(error))
        except Hang:
            Counts.hangs[name] += 1
            raise
        except Exception:
            Counts.crashes[name] += 1
            raise
        finally:
            _seen = None
    events = [event for event in events if not event.startswith(may)] if may else events
    Counts.executed[name] += bool(events)
    assert not events, events
    Counts.slowest = max(Counts.slowest, (time.perf_counter() - started, name))


def check_line(name: str, text: str) -> None:
    """One line that a person can read."""
    if "\n" in text or not text.isprintable() or not 10 < len(text) < 3000:
        Counts.crashes[name] += 1
        raise AssertionError(text)


def say_the_count(capsys: pytest.CaptureFixture[str], least: int) -> None:
    """What this process gave to readers, and what came of it: printed with `-n 0`, looked at in any case."""
    with capsys.disabled():
        total, taken = Counts.inputs.total(), Counts.taken.total()
        crashes, hangs, executed = (count.total() for count in (Counts.crashes, Counts.hangs, Counts.executed))
        seconds, name = Counts.slowest
        print(
            f"\n{total:,} inputs for {len(Counts.inputs)} readers, {taken:,} taken, {total - taken:,} refused; ", end=""
        )
        print(f"crashes {crashes}, hangs {hangs}, code executed {executed}; the slowest took {seconds:.1f} s ({name})")
        if INPUTS > 1000:
            columns = (Counts.inputs, Counts.taken, Counts.crashes, Counts.hangs, Counts.executed)
            print("| reader | inputs | taken | crashes | hangs | code executed |\n|---|---|---|---|---|---|")
            for name in sorted(Counts.inputs):
                print(f"| {name} | " + " | ".join(f"{column[name]:,}" for column in columns) + " |")
    assert total >= least
    assert (crashes, hangs, executed) == (0, 0, 0)
