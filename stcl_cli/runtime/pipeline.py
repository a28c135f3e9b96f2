"""Many photos through a network or a GPU's refinement, with reading, computing and writing at the same time.

Photos are read ahead in threads, computed in batches, and written in threads: nothing waits for a disk but what needs
it. What a GPU has computed is fetched by the writing threads, so that the next batch is under way already. Outcomes
come in the order of the photos.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from stcl_cli.errors import PhotoError
from stcl_cli.runtime.device import cores
from stcl_cli.runtime.threads import eager_threads, thread_pool

if TYPE_CHECKING:
    from stcl_cli.data.photos import Photo

BATCH_PIXELS = {"cpu": 2**19, "cuda": 2**22}  # on the CPU two or three photos fill every core
WINDOW = 8  # batches, of the largest photos, among which a batch is looked for; as many more are being read
MOST_THREADS = 8  # more would hold more 100-megapixel photos at a time

Input = TypeVar("Input")
Output = TypeVar("Output")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Pipeline(Generic[Input, Output, Item]):
    """What is done with a photo.

    Attributes:
        read: gives what is computed from, or None if nothing is to be computed. May raise PhotoError.
        compute: photos and what was read of them -> what comes out for each, or its PhotoError.
        write: gets the photo and its output (None if nothing was computed). May raise PhotoError.
        size: (H, W) in which something that was read is computed.
        max_side: the longest side that `size` may give, but for rounding; bounds the memory.
        mixed: photos of any sizes are computed together, not only those of one.
    """

    read: Callable[[Photo], Input | None]
    compute: Callable[[list[Photo], list[Input]], Sequence[Output | PhotoError]]
    write: Callable[[Photo, Output | None], Item]
    size: Callable[[Input], tuple[int, int]]
    max_side: int
    mixed: bool = False

    def run(
        self, photos: Sequence[Photo], device: torch.device, threads: int | None = None
    ) -> Iterator[tuple[Photo, Item | PhotoError]]:
        """(photo, what `write` returned or why there is nothing), in order; most while the next batch is computed."""
        threads = min(MOST_THREADS, cores()) if threads is None else max(1, threads)
        most = BATCH_PIXELS[device.type]
        window = max(1, WINDOW * most // self.max_side**2)
        waiting = iter(photos)
        ahead: deque[_Job] = deque()  # being read, or read and not yet computed
        jobs: deque[_Job] = deque()
        # Pixels whose outputs, which may be large, wait for being written when a batch is begun: with it two batches,
        # so that a GPU has one to work on.
        room = _Room(max(2 * most, 2 * threads * self.max_side**2))
        eager = eager_threads() if device.type == "cuda" else nullcontext()
        with eager, thread_pool(threads) as readers, thread_pool(threads) as writers:
            try:
                while True:
                    # As many as were computed are read anew: all at once would keep Python's lock from the network.
                    for photo in islice(waiting, 2 * window - len(ahead)):
                        ahead.append(_Job(photo, readers.submit(self.read, photo)))
                        jobs.append(ahead[-1])
                    if not ahead:
                        break
                    batch = self._next_batch(list(islice(ahead, window)), most)
                    taken = set(map(id, batch))
                    ahead = deque(job for job in ahead if id(job) not in taken)
                    room.wait_for(batch)
                    self._compute(batch, writers)
                    while jobs and jobs[0].result and jobs[0].result.done():
                        yield jobs.popleft().outcome()
                while jobs:
                    yield jobs.popleft().outcome()
            except KeyboardInterrupt:  # what is being written is told too: a run that goes on does not make it again
                for job in jobs:
                    if job.result:
                        yield job.outcome()
                raise

    def _compute(self, batch: list[_Job], writers: ThreadPoolExecutor) -> None:
        """What they need, and to the writing threads."""
        outputs: Sequence[Output | PhotoError | None] = [None]
        if batch[0].error:
            outputs = [batch[0].error]
        elif batch[0].input is not None:
            outputs = self.compute([job.photo for job in batch], [job.input for job in batch])
        for job, output in zip(batch, outputs, strict=True):
            job.input = job.reading = None
            if isinstance(output, PhotoError):
                job.result = Future()
                job.result.set_exception(output)
            else:
                job.result = writers.submit(self.write, job.photo, output)

    def _next_batch(self, jobs: list[_Job], most: int) -> list[_Job]:
        """The first job and those that go with it, at most `most` pixels. Waits until they are read.

        Which ones they are depends on the photos alone, not on what has been read by now.
        """
        first, *others = jobs
        size = first.size(self.size)
        if size is None:
            first.pixels = self.max_side**2  # what is written may still be large
            return [first]
        batch, free = [first], most - first.pixels
        for job in others:
            if free < (1 if self.mixed else first.pixels):
                break
            own = job.size(self.size)
            if own is None or not (self.mixed or own == size):
                continue
            free -= job.pixels
            if free < 0:
                break
            batch.append(job)
        return batch


@dataclass
class _Job:
    photo: Photo
    reading: Future | None
    input: Any = None
    pixels: int = 0
    error: PhotoError | None = None  # why there is none
    result: Future | None = None  # of writing

    def size(self, of: Callable[[Any], tuple[int, int]]) -> tuple[int, int] | None:
        """Waits until it is read; None if there is nothing to compute from."""
        try:
            self.input = self.reading.result()
        except PhotoError as error:
            self.error = error
        if self.input is None:
            return None
        size = of(self.input)
        self.pixels = math.prod(size)
        return size

    def outcome(self) -> tuple[Photo, Any]:
        try:
            return self.photo, self.result.result()
        except PhotoError as error:
            return self.photo, error


class _Room:
    """For so many pixels that are computed and not yet written."""

    def __init__(self, pixels: int) -> None:
        self.free = pixels
        self.taken: deque[_Job] = deque()

    def wait_for(self, batch: list[_Job]) -> None:
        """Until it fits, or is alone."""
        wanted = sum(job.pixels for job in batch)
        while self.taken and (self.free < wanted or self.taken[0].result.done()):
            job = self.taken.popleft()
            wait([job.result])
            self.free += job.pixels
        self.free -= wanted
        self.taken += batch
