"""Many photos through a network, with reading, computing and writing at the same time.

Photos are read ahead in threads, go through the network in batches of one size, and are written in threads: nothing
waits for a disk but what needs it. On a GPU the network's results are fetched by the writing threads, so that the next
batch is under way already. Outcomes come in the order of the photos.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Semaphore
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from stcl_cli.data.photos import Photo
from stcl_cli.errors import PhotoError
from stcl_cli.runtime import cores
from stcl_cli.threads import thread_pool
from stcl_models.stcl import rounded_size

BATCH_PIXELS = {"cpu": 2**19, "cuda": 2**22}  # on the CPU two or three photos fill every core
WINDOW = 8  # batches among which photos of one size are looked for
MOST_THREADS = 8  # more would hold more 100-megapixel photos at a time

Output = TypeVar("Output")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Pipeline(Generic[Output, Item]):
    """What is done with a photo.

    Attributes:
        read: gives its pixels, uint8 RGB, or None if it needs no network. May raise PhotoError.
        compute: photos and their pixels, of one size for the network -> what it says of each, or its PhotoError.
        write: gets the photo and its output (None if it needed no network). May raise PhotoError.
        multiple: the network takes sides that are multiples of it.
        max_side: longest side that `read` gives; bounds the memory.
    """

    read: Callable[[Photo], np.ndarray | None]
    compute: Callable[[list[Photo], list[np.ndarray]], Sequence[Output | PhotoError]]
    write: Callable[[Photo, Output | None], Item]
    multiple: int
    max_side: int

    def run(
        self, photos: Sequence[Photo], device: torch.device, threads: int | None = None
    ) -> Iterator[tuple[Photo, Item | PhotoError]]:
        """(photo, what `write` returned or why there is nothing), in order, each as soon as all before it are done."""
        threads = threads or min(MOST_THREADS, cores())
        most = BATCH_PIXELS[device.type]
        window = max(1, WINDOW * most // self.max_side**2)
        # Outputs that wait for being written, which may be large; two batches, so that a GPU has one to work on.
        free = Semaphore(max(2 * threads, 2 * most // self.max_side**2))

        jobs: deque[_Job] = deque()

        def write(photo: Photo, output: Output | None) -> Item:
            try:
                return self.write(photo, output)
            finally:
                free.release()

        with thread_pool(threads) as readers, thread_pool(threads) as writers:

            def start_reading(first: int) -> list[_Job]:
                return [_Job(photo, readers.submit(self.read, photo)) for photo in photos[first : first + window]]

            following = start_reading(0)
            for first in range(0, len(photos), window):
                current, following = following, start_reading(first + window)
                jobs.extend(current)
                for batch in self._batches(current, most):
                    outputs: Sequence[Output | PhotoError | None] = [None]
                    if batch[0].pixels is not None:
                        outputs = self.compute([job.photo for job in batch], [job.pixels for job in batch])
                    for job, output in zip(batch, outputs, strict=True):
                        job.pixels = None
                        if isinstance(output, PhotoError):
                            job.result = Future()
                            job.result.set_exception(output)
                        else:
                            free.acquire()
                            job.result = writers.submit(write, job.photo, output)
                    while jobs and jobs[0].result and jobs[0].result.done():
                        yield jobs.popleft().outcome()
            while jobs:
                yield jobs.popleft().outcome()

    def _batches(self, jobs: list[_Job], most: int) -> Iterator[list[_Job]]:
        """Jobs of one network size, at most `most` pixels of them; in order of the first. Waits for their pixels."""
        groups: dict[Any, list[_Job]] = {}
        for number, job in enumerate(jobs):
            try:
                job.pixels = job.reading.result()
            except PhotoError:
                job.result = job.reading  # which raises it again when the outcome is asked for
                continue
            size = number if job.pixels is None else rounded_size(job.pixels.shape[:2], 1.0, self.multiple)
            groups.setdefault(size, []).append(job)
        for size, group in groups.items():
            count = 1 if isinstance(size, int) else max(1, most // (size[0] * size[1]))
            for first in range(0, len(group), count):
                yield group[first : first + count]


@dataclass
class _Job:
    photo: Photo
    reading: Future
    pixels: np.ndarray | None = None
    result: Future | None = None  # of writing

    def outcome(self) -> tuple[Photo, Any]:
        try:
            return self.photo, self.result.result()
        except PhotoError as error:
            return self.photo, error
