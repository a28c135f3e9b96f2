"""Watching over what may wait for ever: a disk or network that has gone away, a process that has stopped.

A thread that waits so cannot be called back, so a second one ends the process, with a line that says what for.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from stcl_cli.errors import EXIT_ERROR, StclError
from stcl_cli.wording import shown

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

TICK = 2.0  # seconds
FILE_LIMIT = 120.0  # seconds for one file; a photo of 16,384 x 16,384 pixels takes a tenth of them
WAIT_LIMIT = 600.0  # seconds for what reading processes hand over next
NOTE_BYTES = 1024

_blocks: dict[int, tuple[int, float, Callable[[], str]]] = {}  # thread -> tick of the start, limit, what to say
_ticks = 0  # not the clock: a process that was stopped, with Ctrl-Z say, has waited for nothing
_watched: int | None = None  # the process in which the watching thread runs: it does not survive a fork
_starting = threading.Lock()
os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release)
_note: np.ndarray | None = None


@contextmanager
def watched(limit: float, reason: Callable[[], str]) -> Iterator[None]:
    """If the block takes longer than `limit` seconds the process ends, with the line reason() and exit code 1."""
    global _watched
    with _starting:
        if _watched != os.getpid():
            _watched = os.getpid()
            _blocks.clear()
            threading.Thread(target=_watch, daemon=True).start()
    thread = threading.get_ident()
    before = _blocks.get(thread)
    _blocks[thread] = _ticks, limit, reason
    try:
        yield
    finally:
        if before:
            _blocks[thread] = before
        else:
            del _blocks[thread]


def _watch() -> None:
    global _ticks
    while True:
        time.sleep(TICK)
        _ticks += 1
        for since, limit, reason in list(_blocks.values()):
            if (_ticks - since) * TICK > limit:
                print(f"stcl: {reason()}", file=sys.stderr, flush=True)
                os._exit(EXIT_ERROR)


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Around all that is done with an open file: FILE_LIMIT counts."""
    if _note is not None:
        text = f"{os.getpid()} {shown(path)}".encode()[:NOTE_BYTES]
        _note[:] = 0
        _note[: len(text)] = np.frombuffer(text, np.uint8)
    cure = "see whether its disk or network is there, or leave it out; then go on with --resume"
    with watched(FILE_LIMIT, lambda: f"{shown(path)}: cannot be read to its end in {FILE_LIMIT:.0f} s; {cure}"):
        yield


# ---- processes that read -------------------------------------------------------------------------------------------


class Readers:
    """What the processes of a DataLoader opened last, in memory that they share: `start` is a worker_init_fn."""

    def __init__(self, count: int) -> None:
        import torch  # here, because the command line imports this module to be quick

        self.count = count
        self.notes = torch.zeros(count, NOTE_BYTES, dtype=torch.uint8).share_memory_()

    def start(self, worker: int) -> None:
        """In the worker: from now on it leaves a note of each file it opens, and has one thread.

        PyTorch sees to its own; OpenCV's would contend for the cores, and may hang in a forked process.
        """
        import cv2  # here, as torch above

        global _note
        cv2.setNumThreads(0)
        _note = self.notes[worker].numpy()

    def last_files(self, processes: Sequence[int] = ()) -> str:
        """What these processes, or all, opened last: 'a.jpg, b.jpg'."""
        texts = [note.numpy().tobytes().rstrip(b"\0").decode("utf-8", "replace") for note in self.notes]
        notes = [text.partition(" ") for text in texts if text]
        return ", ".join(path for pid, _, path in notes if not processes or int(pid) in processes) or "nothing yet"

    def batches(self, loader: DataLoader, limit: float | None = None) -> Iterator[Any]:
        """The loader's batches. StclError if one of its processes dies.

        For each batch `limit` counts, or WAIT_LIMIT.
        """
        limit = limit or WAIT_LIMIT
        iterator = iter(loader)
        if loader.num_workers and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's own would raise anywhere; here it asks every 5 s
        cure = "see whether their disk or network is there; then go on with --resume"
        while True:
            try:
                with watched(
                    limit, lambda: f"nothing has been read for {limit:.0f} s, last {self.last_files()}; {cure}"
                ):
                    batch = next(iterator, None)
            except (StclError, MemoryError) as error:  # from a worker they come with its traceback as their message
                ours = isinstance(error, StclError)
                message = str(error.args[0] if ours else error)
                last = (message.splitlines() or [""])[-1]
                kind = type(error) if ours else MemoryError  # NumPy's own takes a shape, no text
                raise kind(last.partition("Error: ")[2] or message) from error
            except RuntimeError as error:
                if not str(error).startswith("DataLoader worker"):  # torch's word for a worker that has died
                    raise
                raise self._lost(str(error)) from error
            if batch is None:
                return
            yield batch

    def _lost(self, message: str) -> StclError:
        words = message.replace("(", " ").replace(")", " ").replace(",", " ").split()
        processes = [int(word) for word in words if word.isdigit()]
        return StclError(
            f"a process that reads photos was lost, its last file was {self.last_files(processes)} "
            f"({message.splitlines()[0].strip()}); leave that out, or take fewer --workers if memory is short"
        )
