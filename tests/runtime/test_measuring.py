import itertools
import mmap
import time
from pathlib import Path
from threading import Semaphore
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stcl_cli.data.photos import Photo
from stcl_cli.runtime import measuring
from stcl_cli.runtime.device import Runtime
from stcl_cli.runtime.measuring import PeakMemory, matrix_rate, steady_rate
from stcl_cli.runtime.pipeline import Pipeline

CPU = torch.device("cpu")


@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_matrix_rate_is_operations_over_the_time_of_the_fastest(monkeypatch, amp):
    monkeypatch.setattr(measuring, "_SIDE", {"cpu": 32})
    times = iter([0.001, *[0.3] * 4, 0.2, *[0.3] * 5])  # of one product, then ten of many
    products = []
    monkeypatch.setattr(measuring, "_seconds", lambda work, runtime: (work(), next(times))[1])
    mm = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, out: (mm(a, b, out=out), products.append(a.dtype)))
    rate = matrix_rate(Runtime(CPU, amp), seconds=0.04)
    assert products == [amp or torch.float32] * (1 + 10 * 4)  # a tenth of 0.04 s is four times 0.001 s
    assert rate == pytest.approx(4 * 2 * 32**3 / 0.2 / 1e9)


def test_a_slow_machine_is_not_measured_ten_times(monkeypatch):
    monkeypatch.setattr(measuring, "_SIDE", {"cpu": 8})
    clock, measured = itertools.count(0, 0.7), []
    monkeypatch.setattr(measuring, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(measuring, "_seconds", lambda work, runtime: measured.append(work()) or 2.0)
    assert matrix_rate(Runtime(CPU, None), seconds=1.0) == pytest.approx(2 * 8**3 / 2.0 / 1e9)
    assert len(measured) == 1 + 5  # the clock says 0.7, 1.4, 2.1 and 2.8 s after four of them


def test_matrix_rate_of_this_machine():
    assert 0.1 < matrix_rate(Runtime(CPU, None), seconds=0.1) < 1e5


def test_peak_memory_is_of_what_was_held_since():
    before, size = PeakMemory(CPU).megabytes(), 300 * 2**20
    peak = PeakMemory(CPU)
    with mmap.mmap(-1, size) as held:  # which goes back to the system for sure
        for page in range(0, size, mmap.PAGESIZE):
            held[page] = 1
    assert peak.megabytes() >= before + 250
    assert PeakMemory(CPU).megabytes() < before + 250


def test_the_rate_is_of_the_batches_between_the_first_and_the_last():
    assert steady_rate([7.0, 7.5, 8.5, 10.0, 10.0], batch=1) == 3 / 3.0
    assert steady_rate([3.0, 3.0, 5.0, 5.0, 7.0, 7.0, 7.0], batch=2) == 3 / 4.0


@pytest.mark.parametrize(("count", "last"), [(6, 2), (9, 1), (10, 2)])
def test_the_rate_of_a_pipeline_whose_batches_take_a_second_each(count, last):
    seconds, times, may_write = 0, [], Semaphore(0)
    written = Semaphore(0)

    def compute(photos, pixels):
        nonlocal seconds
        for _ in range(2 if seconds else 0):  # while a batch is computed the one before it is written
            may_write.release()
            written.acquire()
        time.sleep(0.01)  # until the pipeline knows it
        seconds += 1
        return photos

    def write(photo, output):
        may_write.acquire()
        written.release()

    pixels = np.zeros((512, 512, 3), np.uint8)  # two fill a batch
    work = Pipeline(lambda photo: pixels, compute, write, lambda photo: photo.shape[:2], 512)
    for _ in work.run([Photo(str(number), Path()) for number in range(count)], CPU):
        times.append(seconds)
        if len(times) == count - last:
            may_write.release(last)
    assert steady_rate(times, batch=2) == (count - 4) / (-(-count // 2) - 2)
