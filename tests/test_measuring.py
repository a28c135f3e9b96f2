import itertools
import mmap
from types import SimpleNamespace

import pytest
import torch

from stcl_cli import measuring
from stcl_cli.measuring import PeakMemory, matrix_rate, steady_rate
from stcl_cli.runtime import Runtime

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


def test_the_rate_is_of_what_came_after_the_start():
    assert steady_rate([7.0, 8.0, 8.5, 9.0, 9.5], first=2) == 2.0
    assert steady_rate([1.0, 5.0], first=1) == 0.25
