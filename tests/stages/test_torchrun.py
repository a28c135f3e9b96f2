"""The chain as torchrun starts it, one process; on a GPU that goes through NCCL."""

import json
import subprocess
import sys

import pytest
import torch

from stcl_cli.formats.checkpoints import open_checkpoint

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
def test_the_chain_of_one_process_under_torchrun(trained, tmp_path, device):
    ways = {"torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "stcl_cli"]}
    ways["alone"] = ["stcl_cli"]

    def stcl(way, command, *arguments):
        words = [sys.executable, "-m", *ways[way], command, *map(str, arguments), "--device", device, "-q"]
        ended = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()

    photos, labels = trained.photos, trained.root / "labels.csv"
    small = ["--iterations", 3, "--batch-size", 2, "--crop-size", 32, "--log-every", 1]
    tiny = ["--labels", labels, "--backbone", "stcl_tiny", "--no-pretrained", *small]
    for way in ways:
        stcl(way, "train", photos, *tiny, "-o", way)
    torchrun, alone = (
        [json.loads(line)["loss"] for line in (tmp_path / way / "metrics.jsonl").read_text().splitlines()]
        for way in ways
    )
    assert torchrun == pytest.approx(alone, rel=1e-3)
    assert open_checkpoint(tmp_path / "torchrun", "train").info.ranks == 1
    assert len(stcl("torchrun", "cam", photos, "--labels", labels, "-m", "torchrun", "-o", "cams")) == 3
    assert len(stcl("torchrun", "refine", "cams", "--images", photos, "-o", "masks")) == 3
    stcl("torchrun", "segtrain", photos, "--masks", "masks", "--init", "torchrun", *small, "-o", "seg")
    assert len(stcl("torchrun", "predict", photos, "-m", "seg", "-o", "predictions")) == 3
