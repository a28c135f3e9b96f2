"""A full disk, SIGTERM, SIGINT, and two processes at once."""

import os
import signal
import subprocess
import time

import numpy as np
import pytest
from chains import COMMANDS, clean, compare, contents, finish
from processes import Process, run

from stcl_cli.formats import locks


def temporary_files(folder):
    return list(folder.glob("out*/**/.stcl-*.tmp"))


def one_line_of(ended):
    """The last line on stderr, after a look that nothing of Python's is among the rest."""
    assert "Traceback" not in ended.err
    assert "Error" not in ended.err
    return ended.err.splitlines()[-1]


@pytest.mark.parametrize("stage", COMMANDS)
def test_a_limit_on_file_sizes_is_one_line_and_nothing_half(place, peaceful, stage):
    _, expected = peaceful(stage)
    sizes = sorted({len(content) for content in expected.values() if isinstance(content, bytes)})
    for limit in {sizes[0] - 1, sizes[len(sizes) // 2] - 1, sizes[-1] - 1}:
        clean(place)
        ended = run(COMMANDS[stage], place, largest_file=limit)
        assert ended.code == 1, ended.err
        assert one_line_of(ended).startswith("stcl: out")
        assert "cannot be written (File too large)" in one_line_of(ended)
        assert not temporary_files(place)
        finish(place, stage, expected)


@pytest.mark.parametrize("stage", ["train", "cam"])
def test_a_full_disk_is_one_line_and_nothing_half(place, peaceful, stage):
    _, expected = peaceful(stage)
    pages = sum(-(-len(content) // 4096) for content in expected.values() if isinstance(content, bytes))
    (place / "out").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={pages // 2 * 4096}", "tmpfs", place / "out"]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        ended = run(COMMANDS[stage], place)
        assert ended.code == 1, ended.err
        assert "cannot be written (No space left on device); free some space" in one_line_of(ended)
        assert not temporary_files(place)
        subprocess.run(["mount", "-o", "remount,size=100M", place / "out"], check=True)
        finish(place, stage, expected)
    finally:
        subprocess.run(["umount", place / "out"], check=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("stage", COMMANDS)
def test_a_signal_ends_it_with_one_line(place, peaceful, stage, number):
    before, expected = peaceful(stage)
    moment = np.random.default_rng([3, len(stage), number]).uniform(0, 0.5) * before.seconds
    process = Process(COMMANDS[stage], place)
    process.wait_for_a_change()  # however slow the machine: it is at work
    time.sleep(moment)
    process.send(number)
    ended = process.wait()
    if ended.code != 3:  # it was faster this time
        assert ended.code == 128 + number, ended.err
        started = (place / "out" / "config.json").exists()
        how = f"; its files are whole, go on with: stcl {stage} --config out --resume" if started else ""
        assert one_line_of(ended) == f"stcl: stopped{how}"
    assert not temporary_files(place)
    finish(place, stage, expected)


def test_of_two_processes_one_works_and_one_is_refused(place, peaceful, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.5)
    before, expected = peaceful("cam")
    first = Process(COMMANDS["cam"], place, strike=(before.changes // 2, signal.SIGSTOP))
    first.wait_until_stopped()
    done = contents(place)
    for more in ("", " --resume", " --overwrite", " --shard 1/2"):
        second = run(COMMANDS["cam"] + more, place)
        assert second.code == 1
        assert second.err.count("\n") == 1
        assert f"process {first.pid} on" in second.err if more else "is not empty" in second.err
        assert contents(place) == done
    first.send(signal.SIGCONT)
    assert first.wait().code == 3
    compare(contents(place), expected)
