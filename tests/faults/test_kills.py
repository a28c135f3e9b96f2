"""kill -9 at any moment, then --resume: the same bytes as a run that was left in peace.

STCL_KILLS sets the number of kills: 50, or 1,000 in half an hour.
"""

import os
import signal
import time

import numpy as np
import pytest
from chains import COMMANDS, Counts, check_what_is_there, clean, compare, contents, finish
from processes import Process, run
from ranks import free_port

KILLS = int(os.environ.get("STCL_KILLS", 50))
A_STAGE = -(-KILLS // len(COMMANDS))


@pytest.mark.parametrize("stage", COMMANDS)
def test_killed_at_two_changes_on_disk(place, peaceful, stage):
    ended, expected = peaceful(stage)
    rng = np.random.default_rng([1, len(stage)])
    for points in rng.integers(ended.changes, size=(-(-2 * A_STAGE // 5), 2)).tolist():
        clean(place)
        for point, more in zip(points, ("", " --resume"), strict=True):
            killed = run(COMMANDS[stage] + more, place, kill_at=point)
            if killed.code == 3:  # what was left to do needed fewer changes
                continue
            assert killed.code == -signal.SIGKILL, (points, killed.err)
            Counts.kills += 1
            check_what_is_there(place, stage, expected)
        finish(place, stage, expected)


@pytest.mark.parametrize("stage", COMMANDS)
def test_killed_at_a_moment(place, peaceful, stage):
    ended, expected = peaceful(stage)
    rng = np.random.default_rng([2, len(stage)])
    for moment in rng.uniform(0.2, 1, size=-(-A_STAGE // 5)) * ended.seconds:
        clean(place)
        process = Process(COMMANDS[stage], place)
        time.sleep(moment)
        process.send(signal.SIGKILL)
        if process.wait().code == -signal.SIGKILL:
            Counts.kills += 1
        check_what_is_there(place, stage, expected)
        finish(place, stage, expected)


def start_ranks(folder, more="", strike=None):
    """Two ranks of a training; `strike` (see Process) is for rank 0, which is the one that writes."""
    port = str(free_port())
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = COMMANDS["train"].replace("--batch-size 2", "--batch-size 1") + more
    return [
        Process(command, folder, environment=common | {"RANK": str(rank)}, strike=None if rank else strike)
        for rank in range(2)
    ]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_other_and_both_resume(place, peaceful, two_ranks, victim):
    before, expected = two_ranks
    clean(place)
    # Rank 0 waits in the midst of the training, so that neither has ended, however slow or fast the machine is.
    processes = start_ranks(place, strike=(before.changes // 2, signal.SIGSTOP))
    processes[0].wait_until_stopped()
    processes[victim].send(signal.SIGKILL)
    killed = processes[victim].wait()
    if victim != 0:
        processes[0].send(signal.SIGCONT)
    other = processes[1 - victim].wait()
    assert killed.code == -signal.SIGKILL
    Counts.kills += 1
    assert other.code == 1, other.err
    assert "process" in other.err.splitlines()[-1], other.err
    assert "go on with --resume" in other.err.splitlines()[-1]
    assert other.seconds - killed.seconds < 60
    assert [process.wait().code for process in start_ranks(place, " --resume")] == [0, 0]
    compare(contents(place), expected)


@pytest.fixture(scope="module")
def two_ranks(place):
    """How a training on two ranks ended, and its files, when nobody disturbs it."""
    clean(place)
    first, second = (process.wait() for process in start_ranks(place))
    assert (first.code, second.code) == (0, 0), first.err + second.err  # 3, of one that is alone
    return first, contents(place)


def test_the_count(capsys):
    with capsys.disabled():
        print(f"\nkills survived: {Counts.kills}, files lost: {Counts.lost}, bytes different: {Counts.different}")
    assert Counts.kills >= 0.7 * KILLS
    assert (Counts.lost, Counts.different) == (0, 0)
