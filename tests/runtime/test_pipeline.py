import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import quick, seeds
from hypothesis import given
from hypothesis import strategies as st

from stcl_cli.data.photos import Photo
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.runtime import pipeline
from stcl_cli.runtime.pipeline import Pipeline

CPU = torch.device("cpu")
TOO_LARGE = PhotoError("no memory for it")


def photos_of(count):
    return [Photo(str(number), Path(f"{number}.jpg")) for number in range(count)]


def size_of(pixels):
    """Rounded to patches of 16, as a network's."""
    return tuple(max(16, round(side / 16) * 16) for side in pixels.shape[:2])


class Work:
    """Photos of the sizes given, None where no network is needed, an error where reading fails."""

    def __init__(self, *sizes):
        self.sizes, self.batches, self.read_by, self.reading = sizes, [], set(), 0

    def read(self, photo):
        self.reading += 1
        self.read_by.add(threading.current_thread())
        size = self.sizes[int(photo.name)]
        if isinstance(size, Exception):
            raise size
        return None if size is None else np.full((*size, 3), int(photo.name), np.uint8)

    def compute(self, photos, pixels):
        assert [photo.name for photo in photos] == [str(p[0, 0, 0]) for p in pixels]
        self.batches.append([p.shape[:2] for p in pixels])
        return [TOO_LARGE if p.shape[0] == 63 else int(p[0, 0, 0]) for p in pixels]

    def write(self, photo, output):
        return photo.name, output

    def run(self, threads=2, mixed=False):
        made = Pipeline(self.read, self.compute, self.write, size_of, max_side=64, mixed=mixed)
        return list(made.run(photos_of(len(self.sizes)), CPU, threads))


@quick
@given(seeds, st.integers(0, 25), st.integers(1, 3), st.booleans())
def test_every_photo_once_in_order_and_batches_of_one_size_or_of_any(seed, count, threads, mixed):
    rng = np.random.default_rng(seed)
    bad = PhotoError("bad")
    kinds = [None, bad, (63, 20), *[tuple(rng.integers(1, 64, 2)) for _ in range(4)]]
    sizes = [kinds[i] for i in rng.integers(0, len(kinds), count)]
    work = Work(*sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "BATCH_PIXELS", {"cpu": 4096})
        outcomes = work.run(threads, mixed)
    assert [photo.name for photo, _ in outcomes] == [str(i) for i in range(count)]
    for number, (size, (_, outcome)) in enumerate(zip(sizes, outcomes, strict=True)):
        if size and size is not bad and size[0] == 63:
            assert outcome is TOO_LARGE
        else:
            assert outcome == (bad if size is bad else (str(number), None if size is None else number))
    for batch in work.batches:
        rounded = [size_of(np.empty(size)) for size in batch]
        assert mixed or len(set(rounded)) == 1
        assert len(batch) == 1 or sum(height * width for height, width in rounded) <= 4096
    if mixed and not {None, bad} & set(sizes):  # in order, each batch as full as it gets
        assert [size for batch in work.batches for size in batch] == sizes


def test_a_failure_to_write_is_one_photo_s_or_everybody_s():
    work = Work(*[(16, 16)] * 5)
    work.write = lambda photo, output: (_ for _ in ()).throw(PhotoError("too odd")) if photo.name == "1" else output
    outcomes = [outcome for _, outcome in work.run()]
    assert outcomes[:1] + outcomes[2:] == [0, 2, 3, 4]
    assert str(outcomes[1]) == "too odd"
    work.write = lambda photo, output: (_ for _ in ()).throw(StclError("the disk is full"))
    with pytest.raises(StclError, match="the disk is full"):
        work.run()
    assert not [thread for thread in work.read_by if thread.is_alive()]


def test_reading_computing_and_writing_go_on_at_the_same_time():
    work = Work(*[(64, 64)] * 8)
    meeting = threading.Barrier(3, timeout=60)

    def meets(function, name):
        """function, but that for the photo of this name it waits until both others are at theirs."""

        def call(first, *more):
            if name in [photo.name for photo in (first if isinstance(first, list) else [first])]:
                meeting.wait()
            return function(first, *more)

        return call

    work.read, work.compute, work.write = meets(work.read, "3"), meets(work.compute, "1"), meets(work.write, "0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "BATCH_PIXELS", {"cpu": 4096})
        assert [outcome for _, outcome in work.run(threads=2)] == [(str(i), i) for i in range(8)]


def test_what_is_held_is_bounded_and_outcomes_come_early():
    work = Work(*[(64, 64)] * 100)
    waiting = threading.Event()
    work.write = lambda photo, output: (photo.name == "0" or waiting.wait(10)) and output
    made = Pipeline(work.read, work.compute, work.write, size_of, max_side=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "BATCH_PIXELS", {"cpu": 4096})
        outcomes = made.run(photos_of(100), CPU, threads=1)
        assert next(outcomes)[0].name == "0"
        assert len(work.batches) <= 4  # two outputs wait for the thread that writes, one is written
        assert work.reading <= 2 * pipeline.WINDOW
        waiting.set()
        assert len(list(outcomes)) == 99


def test_a_batch_of_many_small_photos_is_computed_while_the_one_before_it_is_still_to_be_written():
    """As a GPU's is: with the largest photos a batch would be one, so room for a few photos would not do."""
    work = Work(*[(16, 16)] * 40)
    waiting = threading.Event()
    work.write = lambda photo, output: waiting.wait(60)
    made = Pipeline(work.read, work.compute, work.write, size_of, max_side=64)

    def compute(photos, pixels):
        if len(work.batches) == 1:
            waiting.set()
        return work_compute(photos, pixels)

    work_compute, made = work.compute, replace(made, compute=compute)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "BATCH_PIXELS", {"cpu": 4096})
        assert [outcome for _, outcome in made.run(photos_of(40), CPU, threads=1)] == [True] * 40
    assert [len(batch) for batch in work.batches] == [8, 8, 8, 8, 8]  # 16 would fit, but only 8 are looked at


def test_what_was_written_when_a_run_is_stopped_is_told_before_it_ends():
    """Photo 0 and 2 of one size are written, 1 and 3 of another one not yet computed, when Ctrl-C comes."""

    class Stopped(Work):
        def compute(self, photos, pixels):
            if self.batches:
                raise KeyboardInterrupt
            return super().compute(photos, pixels)

        def write(self, photo, output):
            time.sleep(0.1)  # still under way
            return super().write(photo, output)

    work = Stopped((16, 16), (32, 32), (16, 16), (32, 32))
    outcomes = Pipeline(work.read, work.compute, work.write, size_of, 64).run(photos_of(4), CPU, 2)
    assert [next(outcomes)[0].name for _ in range(2)] == ["0", "2"]
    with pytest.raises(KeyboardInterrupt):
        next(outcomes)
