"""Which process may write into a folder. Locks of the kernel, which lets go of them when their process ends.

A process alone locks a folder for itself; the shards of one run share it, if all divide the work in the same way.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stcl_cli.errors import StclError
from stcl_cli.formats.files import LOCK, write_error
from stcl_cli.runtime.launch import Shard
from stcl_cli.wording import shown

# Seconds to wait: a killed run's readers live on for a moment, and the first shard tidies up before the others come in.
PATIENCE, PATIENCE_OF_SHARDS = 10.0, 60.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what some network disks say

_held: dict[Path, tuple[Shard, list[int]]] = {}  # this process's folders, and its open lock files


def lock_folder(folder: Path, shard: Shard) -> bool:
    """Take `folder` for this process until it ends; whether nobody else is at work in it.

    A shard that finds itself alone has to `share_folder` before the others can come in. A folder that this process has
    already is its own.

    Raises:
        StclError: another process is at work there.
    """
    key = folder.resolve()
    if key in _held and _held[key][0] == shard:
        return shard.count == 1
    _release(key)
    _held[key] = shard, [_open(folder / LOCK)]
    try:
        return _lock(folder, shard, _held[key][1])
    except BaseException:
        _release(key)
        raise


def _lock(folder: Path, shard: Shard, files: list[int]) -> bool:
    try:
        alone = _wait_for(files[0], shard)
        if alone:
            owner = {"shards": shard.count, "host": socket.gethostname(), "process": os.getpid()}
            os.ftruncate(files[0], 0)
            os.pwrite(files[0], json.dumps(owner).encode(), 0)
        elif _owner(files[0]).get("shards") != shard.count:
            raise BlockingIOError
        if shard.count > 1:
            files.append(_open(folder / f"{LOCK}-{shard.number}"))
            fcntl.flock(files[1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        return alone
    except BlockingIOError as error:
        raise _in_use(folder, shard, files) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise write_error(folder / LOCK, error) from error
        if shard.count > 1:
            raise StclError(
                f"{shown(folder)}: lies on a disk without locks, which shards need to share a folder; give each one of "
                "its own with -o"
            ) from error
        print(f"stcl: {shown(folder)}: no locks on this disk; see that no other process writes there", file=sys.stderr)
        return True


def share_folder(folder: Path) -> None:
    """Let the other shards in; without effect for a process that is no shard."""
    shard, files = _held[folder.resolve()]
    if shard.count > 1:
        fcntl.flock(files[0], fcntl.LOCK_SH)


def check_nobody_inside(folder: Path) -> None:
    """StclError if another process is at work in an output folder inside this one."""
    for root, _, files in os.walk(folder):
        inside = Path(root)
        if LOCK not in files or inside == folder or inside.resolve() in _held:
            continue
        file = _open(inside / LOCK)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _in_use(inside, Shard(), [file]) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise write_error(inside / LOCK, error) from error
        finally:
            os.close(file)


def release_all() -> None:
    """Let go of every folder: for a forked process that only reads."""
    for key in list(_held):
        _release(key)


def _release(key: Path) -> None:
    for file in _held.pop(key, (None, []))[1]:
        os.close(file)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Inside, this process is the only one of those that share `folder`; without locks on its disk none do."""
    path = folder / f"{LOCK}-moment"
    file = _open(path)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise write_error(path, error) from error
        yield
    finally:
        os.close(file)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise write_error(path, error) from error


def _wait_for(file: int, shard: Shard) -> bool:
    """Whether the lock is ours alone. BlockingIOError if it is not to be had."""
    started = time.monotonic()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if shard.count > 1:
                with suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    return False
            siblings = shard.count > 1 and _owner(file).get("shards") == shard.count
            if time.monotonic() - started > (PATIENCE_OF_SHARDS if siblings else PATIENCE):
                raise
        time.sleep(0.1)


def _owner(file: int) -> dict:
    try:
        owner = json.loads(os.pread(file, 4096, 0))
    except (ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _in_use(folder: Path, shard: Shard, files: list[int]) -> StclError:
    owner = _owner(files[0])
    who = f"process {owner.get('process')} on {owner.get('host')} is"
    if len(files) > 1:
        who = f"another process for shard {shard.number}/{shard.count} is"
    elif owner.get("shards", 1) != 1:
        who = f"shards of a run in {owner['shards']} parts are"
    return StclError(
        f"{shown(folder)}: {shown(who)} at work in it; wait for the end, choose another folder with -o, or share the "
        "work with --shard, the same N for all"
    )
