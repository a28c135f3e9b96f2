"""Which of several processes this one is: started by torchrun, by Slurm's srun, or alone. Imports no torch."""

from __future__ import annotations

import os
import re
import zlib
from typing import NamedTuple

from stcl_cli.errors import StclError
from stcl_cli.wording import shown

# Slurm's come from srun alone; a batch script without srun has SLURM_NTASKS too, but is one process.
_NAMES = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"))


class Launch(NamedTuple):
    """This process among those that were started together."""

    rank: int = 0  # from 0
    ranks: int = 1
    local_rank: int = 0  # among those on this machine


def launch() -> Launch:
    """From the environment. StclError if its variables contradict each other."""
    for names in _NAMES:
        if names[0] in os.environ and names[1] in os.environ:
            texts = [os.environ.get(name, "0") for name in names]
            try:
                found = Launch(*map(int, texts))
            except ValueError:
                found = Launch(ranks=0)
            if not 0 <= found.rank < found.ranks or found.local_rank < 0:
                settings = " ".join(f"{name}={text!r}" for name, text in zip(names, texts, strict=True))
                raise StclError(f"{settings}: no such process; unset them or start with torchrun or srun")
            return found
    return Launch()


class Shard(NamedTuple):
    """Part `number` (from 1) of `count` of the work; 1/1 is all of it."""

    number: int = 1
    count: int = 1

    def mine(self, name: str) -> bool:
        """Whether the photo of this name is in the part. It depends on nothing else, so no two shards share a photo,
        also where photos were added between their starts."""
        return zlib.crc32(name.encode("utf-8", "surrogatepass")) % self.count == self.number - 1


def find_shard(text: str | None) -> Shard:
    """'3/8', or without one the place among the processes started together.

    Raises:
        StclError: `text` is no such fraction.
    """
    if text is None:
        return Shard(launch().rank + 1, launch().ranks)
    parts = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    shard = Shard(int(parts[1]), int(parts[2])) if parts else Shard(0, 0)
    if not 1 <= shard.number <= shard.count:
        raise StclError(f"--shard {shown(text)}: give K/N, such as 3/8: part 3 of 8")
    return shard


def under_torchrun() -> bool:
    """Whether torchrun watches this process: to it any exit code but 0 is a crash, and it ends the others."""
    return "TORCHELASTIC_RUN_ID" in os.environ
