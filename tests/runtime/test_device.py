import platform
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from pretended_cuda import pretended

from stcl_cli.errors import StclError
from stcl_cli.runtime.device import cores, fetch, make_runtime, pick_device, seed_everything, upload


@pytest.mark.parametrize(
    ("name", "message"),
    [("gpu", "not a device"), ("cuda:x", "not a device"), ("mps", "only cpu and cuda"), ("cuda:99", "--device cpu")],
)
def test_devices_that_cannot_be_had(name, message):
    with pytest.raises(StclError, match=f"^--device {name}: .*{message}"):
        pick_device(name)


def test_auto_takes_what_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(StclError, match="this machine shows 0 CUDA devices"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: current.append(device.index))
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cuda:1").index == 1
    assert current == [1]  # the first is the current one already
    for rank in range(3):  # three processes share the two GPUs of this machine
        for variable, value in {"RANK": rank + 4, "WORLD_SIZE": 8, "LOCAL_RANK": rank}.items():
            monkeypatch.setenv(variable, str(value))
        assert pick_device("auto") == torch.device("cuda", rank % 2)
        assert pick_device("cuda:1").index == 1
    assert current == [1, 0, 1, 1, 1, 0, 1]


def test_to_a_gpu_and_back_without_waiting():
    with pretended() as waits:
        there = upload(torch.arange(3), torch.device("cuda"))
        assert there.is_cuda
        assert not waits
        wait = fetch(there)
        torch.cuda.Event().record.assert_called_once_with(torch.cuda.current_stream())
        torch.cuda.Event().synchronize.assert_not_called()
        assert wait().tolist() == [0, 1, 2]
        torch.cuda.Event().synchronize.assert_called_once_with()
        torch.cuda.device.assert_called_once_with(there.device)


def test_on_the_cpu_a_tensor_is_where_it_is():
    tensor = torch.arange(3)
    assert upload(tensor, torch.device("cpu")) is tensor
    assert np.shares_memory(fetch(tensor)(), tensor.numpy())


@pytest.mark.parametrize(("amp", "dtype"), [("auto", torch.float32), ("off", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_on_the_cpu(amp, dtype):
    with make_runtime("cpu", amp).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize(
    ("has", "warned"),
    [
        ({"avx512_bf16": False, "amx_bf16": False}, True),
        ({"avx512_bf16": True, "amx_bf16": False}, False),
        ({"avx512_bf16": False, "amx_bf16": True}, False),
        ({"bf16": True}, False),
        (None, False),
    ],
    ids=["avx2", "zen 4", "amx alone", "arm", "older pytorch"],
)
def test_a_cpu_that_only_imitates_bf16_is_told(monkeypatch, capsys, has, warned):
    if has is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    make_runtime("cpu", "auto"), make_runtime("cpu", "off")
    assert not capsys.readouterr().err
    make_runtime("cpu", "bf16")
    assert ("many times slower than float32; give --amp off" in capsys.readouterr().err) == warned


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), None), ((8, 0), torch.bfloat16), ((12, 0), torch.bfloat16)])
def test_precision_on_a_gpu(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert make_runtime("cuda:1", "auto").amp == dtype
    assert make_runtime("cuda:1", "bf16").amp == torch.bfloat16
    assert make_runtime("cuda:1", "off").amp is None
    assert not torch.backends.cuda.matmul.allow_tf32  # what asks for float32, such as the CRF, gets it
    # whose streams, events and graphs are meant where none is named
    assert chosen == 3 * [torch.device("cuda:1")]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_freed_memory_is_used_again():
    code = """
import resource, sys, torch
from stcl_cli.runtime.device import make_runtime

if sys.argv[1] == "yes":
    make_runtime("cpu")
for turn in range(12):  # the first ones find their places
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(10, 2**20).add_(1)  # 40 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        made: int(subprocess.run([sys.executable, "-c", code, made], capture_output=True, check=True).stdout)
        for made in ("no", "yes")
    }
    assert faults["yes"] < 100 < faults["no"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_precision_on_cuda():
    runtime = make_runtime("auto", "auto")
    with runtime.autocast():
        assert (
            torch.ones(2, 2, device=runtime.device) @ torch.ones(2, 2, device=runtime.device)
        ).dtype == torch.bfloat16


def test_seeds_repeat_and_differ():
    def draw(*numbers):
        seed_everything(*numbers)
        return torch.rand(1).item(), np.random.rand(), random.random()

    draws = [draw(0, 2, 5), draw(0, 2, 6), draw(1, 2, 5), draw(2**40, 2, 5)]
    assert draws[0] == draw(0, 2, 5)
    assert all(len(set(column)) == 4 for column in zip(*draws, strict=True))


def test_at_least_one_core():
    assert cores() >= 1
