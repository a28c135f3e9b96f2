from pathlib import Path

import pytest
import torch
from torch import nn

from stcl_cli.errors import PhotoError
from stcl_cli.runtime.device import Runtime, make_runtime
from stcl_cli.runtime.out_of_memory import Halvings, Network, if_it_fits, what_fits

GPU = Runtime(torch.device("cuda"), torch.bfloat16)


def refuse(kind, words="CUDA out of memory. Tried to allocate 2.00 GiB"):
    raise kind(words)


@pytest.mark.parametrize(
    "refusal",
    [
        lambda: refuse(torch.cuda.OutOfMemoryError),
        lambda: refuse(torch.cuda.OutOfMemoryError, "Allocation on device 0 would exceed allowed memory."),
        lambda: refuse(MemoryError),
        lambda: refuse(RuntimeError, "CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        lambda: refuse(RuntimeError, "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        lambda: refuse(RuntimeError, "FIND was unable to find an engine to execute this computation"),
        lambda: torch.empty(2**60),  # a real one of torch's on the CPU
        lambda: bytearray(2**62),
    ],
)
def test_too_little_memory_is_none_and_no_error(refusal):
    assert if_it_fits(refusal) is None
    assert if_it_fits(lambda: "done") == "done"


def test_any_other_error_stays_one():
    with pytest.raises(RuntimeError, match="shapes"):
        if_it_fits(lambda: refuse(RuntimeError, "shapes do not fit"))


def test_less_at_a_time_then_by_other_means_then_not_at_all():
    """Eight of which the first means takes two at a time, but none of 50 or more, and the other none of 90."""
    asked = []

    def first(sizes):
        asked.append(("first", sizes))
        if len(sizes) > 2 or max(sizes) >= 50:
            refuse(torch.cuda.OutOfMemoryError)
        return [f"first: {size}" for size in sizes]

    def other(sizes):
        asked.append(("other", sizes))
        return refuse(MemoryError) if max(sizes) >= 90 else [f"other: {size}" for size in sizes]

    sizes = [1, 2, 3, 50, 5, 6, 90, 8]
    assert what_fits([first, other], sizes, Halvings()) == [
        "first: 1", "first: 2", "first: 3", "other: 50", "first: 5", "first: 6", None, "first: 8",
    ]  # fmt: skip
    assert [sizes for means, sizes in asked if means == "other"] == [[50], [90]]
    assert what_fits([first], [90, 2], Halvings()) == [None, "first: 2"]


def test_what_did_not_fit_is_not_tried_again():
    asked, halvings = [], Halvings()

    def work(inputs):
        asked.append(len(inputs))
        return refuse(MemoryError) if len(inputs) > 2 or "large" in inputs else inputs

    for _ in range(2):
        assert what_fits([work], list("abcdefgh"), halvings) == list("abcdefgh")
    assert asked == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert halvings.known == 2
    one_is_too_large = Halvings()
    assert what_fits([work], ["large", "a"], one_is_too_large) == [None, "a"]
    assert one_is_too_large.known == 0


class Recorder(nn.Linear):
    """Cannot be moved to a GPU here, but knows that it was to be."""

    def to(self, device):
        self.places = [*getattr(self, "places", []), device.type]
        return self


def test_what_the_gpu_has_no_memory_for_is_done_on_the_cpu(capsys):
    network = Network(Recorder(2, 1), GPU)
    sizes = {"small.jpg": 1, "large.jpg": 2, "larger.jpg": 2, "vast.jpg": 3}

    def work(model, runtime, names):
        room = {"cuda": 1, "cpu": 2}[runtime.device.type]
        if sum(sizes[name] for name in names) > room:
            refuse(torch.cuda.OutOfMemoryError)
        assert (model is network.model) is (runtime is GPU)
        return [(name, runtime.device.type, runtime.amp) for name in names]

    *done, vast = network.compute(work, list(sizes), list(map(Path, sizes)))  # not together, so in halves
    assert done == [
        ("small.jpg", "cuda", torch.bfloat16),
        ("large.jpg", "cpu", None),
        ("larger.jpg", "cpu", None),
    ]
    assert capsys.readouterr().err == (
        "stcl: large.jpg: is too large for the GPU's memory; the CPU takes it, and others like it\n"
    )
    assert network.model.places == ["cuda", "cpu", "cuda"]  # copied once, by way of the CPU
    assert isinstance(vast, PhotoError)
    assert str(vast).startswith("vast.jpg: there is too little memory for it; make it smaller")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_that_is_full():
    network = Network(nn.Linear(2, 1), make_runtime("cuda"))
    free, _ = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(0.01)
    try:
        size = free // 4 // 10
        (result,) = network.compute(
            lambda model, runtime, inputs: [torch.empty(size, device=runtime.device).device], [0], [Path("x")]
        )
        assert result.type == "cpu"
        assert next(network.model.parameters()).device.type == "cuda"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
