"""Which of several processes this one is: started by torchrun, by Slurm's srun, or alone. Imports no torch."""

from __future__ import annotations

import os
from typing import NamedTuple

from stcl_cli.errors import StclError

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


def under_torchrun() -> bool:
    """Whether torchrun watches this process: to it any exit code but 0 is a crash, and it ends the others."""
    return "TORCHELASTIC_RUN_ID" in os.environ
