"""Commands in processes of their own, which are killed at a point that can be named, or interrupted, or short of disk.

They are forked from a process that has imported everything, so that hundreds of kills take minutes.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from stcl_cli.cli import main
from stcl_cli.formats.locks import release_all

CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree"}


class Ended(NamedTuple):
    """How a command ended."""

    code: int  # its exit code; negative: the signal that ended it
    out: str
    err: str
    changes: int  # on disk
    seconds: float


class Process:
    """`stcl COMMAND`, started in `folder`.

    Args:
        strike: (number, signal): before (or in the midst of) the change on disk of this number, from 0, under
            FOLDER/out*, the process sends itself the signal.
        largest_file: limit of the kernel on file sizes, which stands in for a full disk.
        environment: more variables.
    """

    def __init__(
        self,
        command: str,
        folder: Path,
        *,
        strike: tuple[int, int] | None = None,
        largest_file: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        pipes = [
            os.pipe() for _ in range(3)
        ]  # for stdout, stderr, and a byte a change: they hold as much as is written
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.environ |= environment or {}
                _be_the_command(command, folder, [theirs for _, theirs in pipes], strike, largest_file)
            finally:  # whatever happens: no second pytest
                os._exit(99)
        for _, theirs in pipes:
            os.close(theirs)
        self.pipes = [ours for ours, _ in pipes]

    def send(self, number: int) -> None:
        os.kill(self.pid, number)  # a process that has ended is still there, to be waited for

    def wait_for_a_change(self) -> None:
        """On disk; it is not counted afterwards."""
        assert os.read(self.pipes[2], 1) == b"."

    def wait_until_stopped(self) -> None:
        assert os.WIFSTOPPED(os.waitpid(self.pid, os.WUNTRACED)[1])

    def wait(self) -> Ended:
        _, status = os.waitpid(self.pid, 0)
        seconds = time.monotonic() - self.started
        out, err, changes = (_read(pipe) for pipe in self.pipes)
        return Ended(os.waitstatus_to_exitcode(status), out.decode(), err.decode(), len(changes), seconds)


def _read(pipe: int) -> bytes:
    """What is there: processes that the ended one has started may still keep the other end open."""
    os.set_blocking(pipe, False)
    parts = []
    try:
        while part := os.read(pipe, 65536):
            parts.append(part)
    except BlockingIOError:
        pass
    os.close(pipe)
    return b"".join(parts)


def run(command: str, folder: Path, *, kill_at: int | None = None, largest_file: int | None = None) -> Ended:
    """Run `stcl COMMAND` in `folder`; with `kill_at` it dies by kill -9 at the change of this number."""
    strike = None if kill_at is None else (kill_at, signal.SIGKILL)
    return Process(command, folder, strike=strike, largest_file=largest_file).wait()


def _be_the_command(
    command: str, folder: Path, pipes: list[int], strike: tuple[int, int] | None, largest_file: int | None
) -> None:
    code = 99
    try:
        release_all()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
        os.chdir(folder)
        for number in (1, 2):
            os.dup2(pipes[number - 1], number)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        # Line by line, as Python's own: a thread that ends the process (watch.py) leaves nobody to flush it.
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
        _count_changes(pipes[2], strike)
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))
        main(command.split(), standalone_mode=False)
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    for number in (signal.SIGINT, signal.SIGTERM):  # too late
        signal.signal(number, signal.SIG_IGN)
    # As Python's own end does, which os._exit passes over; one that is about to start cannot be joined.
    while any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        time.sleep(0.005)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _count_changes(pipe: int, strike: tuple[int, int] | None) -> None:
    """One byte for each change on disk; at one of them the process is struck."""
    made, owner = 0, os.getpid()

    def change(half: Callable[[], object] = lambda: None) -> None:
        nonlocal made
        if os.getpid() != owner:
            return
        made += 1  # before the strike, which may raise what is cleaned up after by further changes
        if strike and made == strike[0] + 1:
            half()
            os.kill(owner, strike[1])
        os.write(pipe, b".")

    def watch(event: str, arguments: tuple) -> None:
        if event in CHANGES and isinstance(arguments[0], str | os.PathLike):
            reads = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not reads and os.path.abspath(arguments[0]).startswith(os.path.abspath("out")):
                change()

    write_bytes = Path.write_bytes

    def write_half_or_all(path: Path, data: bytes) -> int:
        change(lambda: write_bytes(path, bytes(data)[: len(data) // 2]))
        return write_bytes(path, data)

    Path.write_bytes = write_half_or_all
    sys.addaudithook(watch)
