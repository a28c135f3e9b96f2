"""Training on several ranks, through the stages."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from ranks import run_ranks
from safetensors.torch import load_file

from stcl_cli.config import SegtrainConfig, TrainConfig
from stcl_cli.errors import StclError
from stcl_cli.formats.runs import read_jsonl
from stcl_cli.stages import segtrain, train
from stcl_cli.training import engine
from stcl_models import memory_bank

RUNS = {"train": train.run, "segtrain": segtrain.run}


@pytest.fixture(params=RUNS)
def config(request, trained, tmp_path, monkeypatch):
    """Four photos a step, of which one cannot be read, through all phases, measured twice."""
    monkeypatch.setattr(memory_bank, "DOUBTED", -1.0)  # the memory of a network so fresh is trusted
    shutil.copytree(trained.photos, tmp_path / "photos")
    Image.fromarray(np.full((30, 30, 3), 90, np.uint8)).save(tmp_path / "photos" / "d.jpg")
    (tmp_path / "photos" / "e.jpg").write_bytes(b"no photo")
    labels = (trained.root / "labels.csv").read_text()
    (tmp_path / "labels.csv").write_text(f"{labels}d,cat\ne,dog\n")
    shutil.copytree(trained.root / "truth", tmp_path / "truth")
    for name in "de":
        Image.fromarray(np.full((30, 30), 2, np.uint8)).save(tmp_path / "truth" / f"{name}.png")
    common = {"images": str(tmp_path / "photos"), "pretrained": False, "device": "cpu", "output": str(tmp_path / "one")}
    common |= {"iterations": 4, "batch_size": 4, "crop_size": 32, "save_every": 2, "log_every": 1, "warmup": 0.5}
    common |= {"val_masks": str(trained.root / "truth"), "val_every": 2}
    common["amp"] = "off"
    common["lr"] = 1e-6  # Adam makes a step of this length of a gradient that is nothing but rounding, too
    if request.param == "segtrain":
        return SegtrainConfig(masks=str(tmp_path / "truth"), encoder="stcl_tiny", **common)
    common |= {
        "contrast_start": 0.25,
        "segmentation_start": 0.5,
        "cam_scales": (1.0,),
        "local_crops": 2,
        "w_class": 0.5,
        "w_seg": 0.1,
    }
    common |= {"memory_start": 0.5, "memory_update": "fifo"}  # all regions are stored, also those of a network so fresh
    return TrainConfig(labels=str(tmp_path / "labels.csv"), backbone="stcl_tiny", **common)


def run_of(config):
    return RUNS["segtrain" if isinstance(config, SegtrainConfig) else "train"]


def test_two_ranks_are_one_process_with_twice_the_batch(config, tmp_path):
    run = run_of(config)
    assert run(config).skipped == 1
    both = replace(config, output=str(tmp_path / "two"), batch_size=2)
    assert run_ranks(2, lambda rank: run(both).skipped) == [1, 0]  # the first one speaks for all
    one, two = (load_file(tmp_path / name / "checkpoints" / "last.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert "model.memory.stored" not in one or one["model.memory.stored"].count_nonzero() == 3
    for name in one:
        expected, given = one[name].double(), two[name].double()
        assert (expected - given).norm() <= 2e-3 * expected.norm() + 1e-7, name  # some are zero but for rounding
    logs = [read_jsonl(tmp_path / name / "metrics.jsonl") for name in ("one", "two")]
    for log in logs:
        assert all(line.pop("photos_per_second", 1) for line in log)
    assert len(logs[0]) == len(logs[1])
    assert run is segtrain.run or any(line.get("memory", 0) > 0 for line in logs[1])
    for line, other in zip(*logs, strict=True):
        assert line == pytest.approx(other, rel=1e-3)
    assert read_jsonl(tmp_path / "two" / "failed.jsonl") == read_jsonl(tmp_path / "one" / "failed.jsonl")


def test_two_ranks_resume_bit_for_bit(config, tmp_path):
    run = run_of(config)
    whole = replace(config, batch_size=2)
    run_ranks(2, lambda rank: run(whole).skipped)
    stopped = replace(whole, output=str(tmp_path / "two"))

    def until_the_first_checkpoint(rank):
        saved = engine.save_checkpoint

        def save(path, *arguments):
            saved(path, *arguments)
            if path.name == "last.safetensors":
                raise StclError("the power fails")

        engine.save_checkpoint = save  # in this process, which ends with the run
        run(stopped)

    first, other = run_ranks(2, until_the_first_checkpoint)
    assert isinstance(first, StclError)
    assert isinstance(other, StclError) or other.args == (1,)  # whatever it notices first, the broken call or the word
    assert run_ranks(2, lambda rank: run(replace(stopped, resume=True)).skipped) == [1, 0]
    one, two = (load_file(tmp_path / name / "checkpoints" / "last.safetensors") for name in ("one", "two"))
    assert all(one[name].equal(two[name]) for name in one)
