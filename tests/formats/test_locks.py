import errno
import multiprocessing
import os

import pytest

from stcl_cli.errors import StclError
from stcl_cli.formats import locks, runs
from stcl_cli.runtime.launch import Shard

ALL = Shard()


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.5)
    monkeypatch.setattr(locks, "PATIENCE_OF_SHARDS", 0.5)


@pytest.fixture
def another():
    """Starts a process that takes a folder and keeps it; gives the process and what it said."""
    context = multiprocessing.get_context("fork")
    started = []

    def start(folder, shard=ALL, share=True):
        def hold(pipe):
            locks.release_all()
            try:
                pipe.send(locks.lock_folder(folder, shard))
                if share:
                    locks.share_folder(folder)
            except StclError as error:
                pipe.send(error)
            pipe.send("ready")
            pipe.recv()  # which never comes

        ours, theirs = context.Pipe()
        process = context.Process(target=hold, args=(theirs,))
        process.start()
        started.append((process, ours))
        said = ours.recv()
        assert ours.recv() == "ready"
        return process, said

    yield start
    for process, _ in started:
        process.kill()
        process.join()


def test_a_second_process_is_refused_until_the_first_one_dies(tmp_path, another):
    first, alone = another(tmp_path)
    assert alone
    with pytest.raises(StclError) as caught:
        locks.lock_folder(tmp_path, ALL)
    assert f"{tmp_path}: process {first.pid} on {os.uname().nodename} is at work in it" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(StclError, match="at work in it"):
        locks.lock_folder(tmp_path, Shard(1, 2))
    first.kill()
    first.join()  # on a busy machine a dead process keeps its files for longer than our little patience
    assert locks.lock_folder(tmp_path, ALL)
    assert locks.lock_folder(tmp_path, ALL)  # it is ours already


def test_a_release_by_a_forked_reader_keeps_the_lock_of_its_parent(tmp_path, another):
    assert locks.lock_folder(tmp_path, ALL)
    assert isinstance(another(tmp_path)[1], StclError)  # it was forked from here, and let go of what it had inherited


def test_shards_of_one_division_share_a_folder(tmp_path, another):
    _, first = another(tmp_path, Shard(1, 3))
    _, second = another(tmp_path, Shard(2, 3))
    assert (first, second) == (True, False)
    for wrong in (ALL, Shard(1, 2)):
        with pytest.raises(StclError, match="shards of a run in 3 parts are at work in it"):
            locks.lock_folder(tmp_path, wrong)
    assert not locks.lock_folder(tmp_path, Shard(3, 3))


def test_the_first_shard_gets_ready_undisturbed(tmp_path, another):
    process, alone = another(tmp_path, Shard(1, 2), share=False)
    assert alone
    with pytest.raises(StclError, match="at work in it"):
        locks.lock_folder(tmp_path, Shard(2, 2))
    process.kill()
    process.join()
    assert locks.lock_folder(tmp_path, Shard(2, 2))  # the next one is the first


def test_the_same_shard_twice(tmp_path, another):
    another(tmp_path, Shard(1, 2))
    with pytest.raises(StclError, match="another process for shard 1/2 is at work in it"):
        locks.lock_folder(tmp_path, Shard(1, 2))


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 100_000, b'{"shards": "x"}'])
def test_whatever_stands_in_the_lock_file(tmp_path, another, content):
    another(tmp_path)
    (tmp_path / ".stcl-lock").write_bytes(content)
    with pytest.raises(StclError, match="at work in it"):
        locks.lock_folder(tmp_path, ALL)


def test_a_disk_without_locks(tmp_path, monkeypatch, capsys):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    assert locks.lock_folder(tmp_path, ALL)
    assert "no locks on this disk; see that no other process writes there" in capsys.readouterr().err
    with locks.one_at_a_time(tmp_path):
        pass
    with pytest.raises(StclError, match="a disk without locks, which shards need"):
        locks.lock_folder(tmp_path, Shard(1, 2))


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("data")
    (tmp_path / ".stcl-lock").symlink_to(tmp_path / "precious")
    with pytest.raises(StclError, match="cannot be written"):
        locks.lock_folder(tmp_path, ALL)
    assert (tmp_path / "precious").read_text() == "data"


def test_overwrite_deletes_no_folder_in_which_another_process_is_at_work(tmp_path, another):
    for folder in (tmp_path / "out", tmp_path / "out" / "cams"):
        runs.write_config(folder, "run", {})
    (tmp_path / "out" / "cams" / "a.png").touch()
    process, _ = another(tmp_path / "out" / "cams")
    with pytest.raises(StclError, match=rf"out/cams: process {process.pid} on .* is at work in it"):
        runs.open_output(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "cams" / "a.png").is_file()
    process.kill()
    process.join()
    runs.open_output(tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / "cams").exists()
