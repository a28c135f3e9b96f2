import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from stcl_cli.config import SegtrainConfig, TrainConfig
from stcl_cli.console import set_verbosity
from stcl_cli.formats.locks import release_all
from stcl_cli.formats.masks import write_mask

# The same inputs every time, but for STCL_FUZZ. No deadline: torch's first call is slow, and so are shared machines.
settings.register_profile("stcl", deadline=None, derandomize="STCL_FUZZ" not in os.environ)
settings.load_profile("stcl")


def pytest_configure(config: pytest.Config) -> None:
    """Before torch is there: how many threads it starts, whether it sees a GPU, and what its C++ says of lost ranks.

    Where autograd sees a GPU it starts threads, and a process forked after that may not run a backward pass. So only
    `pytest -m cuda` sees one.
    """
    if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # not in the process that starts them, whose environment they get
        threads = (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, threads)))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # as in cli.py; tests fork processes that have torch already
    if config.option.markexpr != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


NAMES = ("a", "sub dir/bär 01", "sub dir/c.v1")


@pytest.fixture(autouse=True)
def _like_a_process():
    """A process keeps its output folders, and stays as quiet as it was told to be; a test stands for a process."""
    yield
    release_all()
    set_verbosity(0)


class Trained(NamedTuple):
    """Photos, and both networks after one step: what they say is noise, but said as ever."""

    root: Path
    photos: Path
    run: Path
    seg: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Trained:
    from stcl_cli.stages import segtrain, train  # here, as most tests do without torch

    root = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    for name in NAMES:
        path = root / "photos" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(path)
        write_mask(root / "truth" / f"{name}.png", rng.integers(0, 3, (40, 56), dtype=np.uint8))
    (root / "labels.csv").write_text("".join(f"{name},cat;dog\n" for name in NAMES))
    (root / "truth" / "classes.txt").write_text("cat\ndog\n")
    tiny = {"images": str(root / "photos"), "pretrained": False, "device": "cpu"}
    tiny |= {"iterations": 1, "batch_size": 2, "crop_size": 32}
    train.run(TrainConfig(labels=str(root / "labels.csv"), output=str(root / "run"), backbone="stcl_tiny", **tiny))
    segtrain.run(SegtrainConfig(masks=str(root / "truth"), output=str(root / "seg"), encoder="stcl_tiny", **tiny))
    return Trained(root, root / "photos", root / "run", root / "seg")
