import os
import signal
import subprocess
import threading
import time
from multiprocessing import active_children

import numpy as np
import pytest
import torch
from helpers import write_photo
from PIL import Image
from ranks import Ended, run_ranks
from torch.utils.data import DataLoader, Dataset

from stcl_cli.data.pixels import read_photo
from stcl_cli.errors import PhotoError, StclError, is_out_of_memory
from stcl_cli.runtime import watch
from stcl_cli.runtime.watch import Readers, watched


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch):
    monkeypatch.setattr(watch, "TICK", 0.05)
    monkeypatch.setattr(watch, "FILE_LIMIT", 0.5)
    monkeypatch.setattr(watch, "WAIT_LIMIT", 60.0)


@pytest.fixture
def photos(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    return [write_photo(tmp_path / f"p{number}.png", pixels) for number in range(6)]


@pytest.fixture
def dead_disk(monkeypatch):
    """Opening p3.png waits in the kernel for data that never come, as on a network disk that has gone."""
    ours, theirs = os.pipe()
    opened = Image.open
    monkeypatch.setattr(
        Image, "open", lambda path, **how: os.read(ours, 1) if "p3" in str(path) else opened(path, **how)
    )
    yield
    os.close(ours)
    os.close(theirs)


class Photos(Dataset):
    def __init__(self, paths):
        self.paths = paths

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        read_photo(self.paths[index])
        return index


def in_a_process(function):
    """What becomes of function() in a process of its own."""
    return run_ranks(1, lambda rank: function())[0]


def test_a_file_that_cannot_be_read_ends_the_process_with_its_name(photos, dead_disk, capfd):
    started = time.monotonic()
    ended = in_a_process(lambda: [read_photo(path) for path in photos])
    assert time.monotonic() - started < 60
    assert isinstance(ended, Ended)
    assert ended.args == (1,)
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith(f"stcl: {photos[3]}: cannot be read to its end in ")
    assert line.endswith("leave it out; then go on with --resume")


def test_what_is_fast_enough_is_left_alone(photos):
    def many():
        for _ in range(15):
            read_photo(photos[0])
            time.sleep(0.05)
        return "done"

    assert in_a_process(many) == "done"


def test_time_in_which_the_process_was_stopped_does_not_count():
    def stopped():
        subprocess.Popen(["bash", "-c", f"sleep 2; kill -CONT {os.getpid()}"])
        with watched(1.0, lambda: "too slow"):
            os.kill(os.getpid(), signal.SIGSTOP)
        return "done"

    assert in_a_process(stopped) == "done"


class SlowlyCleared(dict):
    def clear(self):
        time.sleep(0.1)
        super().clear()


def test_threads_that_begin_at_once(monkeypatch):
    def begin():
        errors, together = [], threading.Barrier(4)

        def block():
            together.wait()
            try:
                with watched(60.0, lambda: "too slow"):
                    time.sleep(0.2)
            except Exception as error:
                errors.append(repr(error))

        threads = [threading.Thread(target=block) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return errors, sum("_watch" in thread.name for thread in threading.enumerate())

    monkeypatch.setattr(watch, "_blocks", SlowlyCleared())
    assert in_a_process(begin) == ([], 1)


def batches(photos, workers, hook=lambda number: None):
    def run():
        torch.set_num_threads(1)
        readers = Readers(workers)
        loader = DataLoader(Photos(photos), batch_size=None, num_workers=workers, worker_init_fn=readers.start)
        numbers = []
        for number in readers.batches(loader):
            hook(number)
            numbers.append(number)
        return numbers

    return in_a_process(run)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_order(photos, workers):
    assert batches(photos, workers) == list(range(6))


def test_a_reading_process_that_waits_for_a_dead_disk(photos, dead_disk, capfd):
    error = batches(photos, 2)
    assert isinstance(error, StclError)
    assert f"a process that reads photos was lost, its last file was {photos[3]} (" in str(error)
    assert "\n" not in str(error)
    assert f"stcl: {photos[3]}: cannot be read to its end" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_reading_process_that_is_killed(photos, dead_disk, number, monkeypatch):
    monkeypatch.setattr(watch, "FILE_LIMIT", 60)

    def kill(batch):
        if batch == 2:
            time.sleep(0.5)  # by now p3 is waited for
            (child,) = active_children()
            os.kill(child.pid, number)

    error = batches(photos, 1, kill)
    assert isinstance(error, StclError)
    assert f"its last file was {photos[3]} (DataLoader worker" in str(error)
    assert "take fewer --workers if memory is short" in str(error)


def test_a_reading_process_that_is_stopped(photos, monkeypatch, capfd):
    monkeypatch.setattr(watch, "WAIT_LIMIT", 1.0)

    def stop(batch):
        if batch == 2:
            (child,) = active_children()
            os.kill(child.pid, signal.SIGSTOP)
            subprocess.Popen(["bash", "-c", f"sleep 4; kill -9 {child.pid}"])  # or nobody would

    monkeypatch.setattr(
        Photos, "__getitem__", lambda self, index: (read_photo(self.paths[index]), time.sleep(0.2), index)[2]
    )
    ended = batches(photos, 1, stop)
    assert isinstance(ended, Ended)
    assert ended.args == (1,)
    assert "stcl: nothing has been read for 1 s, last " in capfd.readouterr().err


def test_processes_that_compute_may_take_longer(monkeypatch):
    monkeypatch.setattr(watch, "TICK", 0.05)
    monkeypatch.setattr(watch, "WAIT_LIMIT", 0.1)
    monkeypatch.setattr(Photos, "__getitem__", lambda self, index: (time.sleep(0.6), index)[1])
    loader = torch.utils.data.DataLoader(Photos(["p"]), batch_size=None)
    assert list(watch.Readers(0).batches(loader, 60.0)) == [0]


@pytest.mark.parametrize("kind", [StclError, PhotoError, MemoryError])
def test_an_error_of_a_reading_process_is_one_line(photos, monkeypatch, kind):
    def fail(self, index):
        raise kind("p0.png: is: too much")

    monkeypatch.setattr(Photos, "__getitem__", fail)
    for workers in (0, 1):
        error = batches(photos, workers)
        assert type(error) is kind
        assert str(error) == "p0.png: is: too much"


def test_memory_that_numpy_does_not_get(photos, monkeypatch):
    def fail(self, index):
        np.empty((2**40, 2**10))

    monkeypatch.setattr(Photos, "__getitem__", fail)
    for workers in (0, 1):
        error = batches(photos, workers)
        assert is_out_of_memory(error), repr(error)


def test_memory_that_does_not_suffice_may_say_nothing(photos, monkeypatch):
    def fail(self, index):
        raise MemoryError

    monkeypatch.setattr(Photos, "__getitem__", fail)
    assert [type(batches(photos, workers)) for workers in (0, 1)] == [MemoryError] * 2
