import numpy as np
import pytest
import torch

from stcl_cli.formats.checksum import checksum

TENSORS = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.zeros((0, 4), np.float32), "c": np.float32([1.5])}


def test_it_hangs_on_names_kinds_shapes_bytes_and_header_and_on_nothing_else():
    value = checksum("header", TENSORS)
    assert len(value) == 8
    assert checksum("header", dict(reversed(TENSORS.items()))) == value
    assert checksum("header", TENSORS | {"a": np.asfortranarray(TENSORS["a"])}) == value
    others = [
        checksum("Header", TENSORS),
        checksum("header", TENSORS | {"a": TENSORS["a"].reshape(3, 2)}),
        checksum("header", TENSORS | {"a": TENSORS["a"].view(np.uint32)}),
        checksum("header", TENSORS | {"c": np.nextafter(TENSORS["c"], 2)}),
        checksum("header", {"x" if name == "a" else name: tensor for name, tensor in TENSORS.items()}),
    ]
    assert len({value, *others}) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_of_torch(dtype):
    tensor = torch.arange(6).view(2, 3).to(dtype)
    value = checksum("", {"x": tensor, "step": torch.tensor(3.0)})
    assert checksum("", {"x": tensor.t().contiguous().t(), "step": torch.tensor(3.0)}) == value
    assert checksum("", {"x": tensor.flip(0), "step": torch.tensor(3.0)}) != value
    assert checksum("", {"x": tensor, "step": torch.tensor(4.0)}) != value
