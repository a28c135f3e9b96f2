import pytest
from helpers import quick
from hypothesis import given
from hypothesis import strategies as st

from stcl_cli.errors import StclError
from stcl_cli.runtime.launch import Launch, Shard, find_shard, launch, under_torchrun


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Launch(0, 1, 0)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Launch(5, 8, 1)),
        ({"RANK": "5", "WORLD_SIZE": "8"}, Launch(5, 8, 0)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3", "SLURM_LOCALID": "2"}, Launch(2, 3, 2)),
        # a batch script that does not call srun is one process, however many tasks were asked for
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}, Launch(0, 1, 0)),
        ({"RANK": "0", "WORLD_SIZE": "1", "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3"}, Launch(0, 1, 0)),
    ],
)
def test_the_place_among_the_processes(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert launch() == expected


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("0", "0"), ("x", "2"), ("0", "")])
def test_contradictions_are_one_line(monkeypatch, rank, size):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(StclError, match=f"^RANK='{rank}' WORLD_SIZE='{size}' .*no such process"):
        launch()


def test_torchrun_is_known_by_its_own_variable(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert not under_torchrun()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert under_torchrun()


@quick
@given(st.lists(st.text(st.characters(exclude_categories=[]))), st.integers(1, 20))
def test_every_photo_falls_to_one_shard(names, count):
    shards = [Shard(number, count) for number in range(1, count + 1)]
    assert all(sum(shard.mine(name) for shard in shards) == 1 for name in names)
    assert all(Shard().mine(name) for name in names)


def test_shards_are_of_about_the_same_size():
    sizes = [sum(Shard(number, 8).mine(f"sub/img_{i:06}") for i in range(8000)) for number in range(1, 9)]
    assert sum(sizes) == 8000
    assert max(sizes) - min(sizes) < 200


def test_a_shard_is_asked_for_or_follows_from_the_launch(monkeypatch):
    assert find_shard(None) == Shard(1, 1)
    assert find_shard("3/8") == Shard(3, 8)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert find_shard(None) == Shard(3, 4)
    assert find_shard("1/1") == Shard(1, 1)


@pytest.mark.parametrize("text", ["", "3", "0/8", "9/8", "a/b", "1/0", "1/2/3", "1.0/2", "-1/2", "1/2\n"])
def test_no_shard(text):
    with pytest.raises(StclError, match=r"--shard .*give K/N"):
        find_shard(text)
