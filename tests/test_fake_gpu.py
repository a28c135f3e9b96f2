"""What is marked `cuda`, on a GPU that is not there: devices that are mixed up show on every machine."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
SLOW = "test_on_a_gpu_with_passes_that_are_replayed"
NEEDS_NCCL = "test_torchrun"


@pytest.mark.skipif(not shutil.which("cc") or not torch.version.cuda, reason="needs cc and PyTorch's build for CUDA")
def test_what_needs_a_gpu():
    pytest_ = ["pytest", "-m", "cuda", "-n", "0", "-p", "no:cacheprovider", "-k", f"not {SLOW} and not {NEEDS_NCCL}"]
    command = [sys.executable, HERE / "fake_gpu", *pytest_]
    ended = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert " passed" in ended.stdout
    assert "skipped" not in ended.stdout.splitlines()[-1]
    assert "  memory_bank.py:" in ended.stderr  # where the CPU waited


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_refuses_tensors_of_the_cpu():
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    for mixed in (lambda: here + there, lambda: there @ here, lambda: torch.where(there > 0, here, there), there.numpy):
        with pytest.raises((RuntimeError, TypeError), match="device"):
            mixed()
    assert (there[here.long()] * torch.tensor(2.0)).tolist() == [2, 2, 2]  # an index and a number may come from there
    with pytest.raises(RuntimeError, match="cuda"):
        torch.rand(3, device="cuda", generator=torch.Generator())
