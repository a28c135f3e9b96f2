"""Several processes in a test."""

import multiprocessing
import os
import signal
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch

LIMIT = 300.0  # seconds for a process's result


class Ended(Exception):
    """A process that left no result; holds its exit code and what it raised."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """function(rank, *arguments) in `count` processes that find together as under torchrun.

    Gives each one's result, or the exception that ended it, or Ended(exit code).
    """
    context = multiprocessing.get_context("fork")  # so that `function` may be a local one, and imports are there
    port, pipes, processes = free_port(), [], []
    for rank in range(count):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(theirs, rank, count, port, function, arguments))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    results = []
    for pipe, process in zip(pipes, processes, strict=True):
        if not pipe.poll(LIMIT):
            os.kill(process.pid, signal.SIGABRT)  # pytest has it say on stderr where it hangs
        try:
            results.append(pipe.recv())
        except EOFError:
            process.join(30)
            results.append(Ended(process.exitcode))
    for process in processes:
        process.join(30)
        if process.is_alive():
            process.kill()
    return results


def _run(pipe, rank, count, port, function, arguments) -> None:
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        pipe.send(function(rank, *arguments))
    except Exception as error:
        traceback.print_exc()
        pipe.send(error)
