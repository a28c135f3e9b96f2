"""Pools of threads, after which a process may be forked."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

# That decode pictures, which lets go of Python's lock; more would hold more 100-megapixel photos at a time.
DECODERS = min(4, os.cpu_count() or 1)
PATIENCE = 5.0  # seconds for a thread to leave; it takes microseconds, unless the machine is very busy


@contextmanager
def eager_threads() -> Iterator[None]:
    """Inside, a thread that wants Python's lock waits 0.1 ms for it where it is not let go, in place of 5 ms.

    For a thread that launches a GPU's kernels beside others that read and write: each launch lets the lock go.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def thread_pool(count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that have left when the block ends; what they have not begun by then is not done.

    Before Python 3.13 a thread may be joined while it still frees its thread-local memory. OpenCV holds a lock for
    that, and a process forked at this moment, such as one of a DataLoader, inherits the lock but not the thread: its
    first call of OpenCV waits for ever. With two busy cores that was one fork in a thousand.
    """
    numbers: list[int] = []  # of the kernel
    pool = ThreadPoolExecutor(count, initializer=lambda: numbers.append(threading.get_native_id()))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        end = time.monotonic() + PATIENCE
        while any(os.path.exists(f"/proc/self/task/{number}") for number in numbers) and time.monotonic() < end:
            time.sleep(0.0005)
