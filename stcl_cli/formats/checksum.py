"""A check value of tensors and what is said of them: safetensors has none, and any bytes are a weight."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def checksum(header: str, tensors: Mapping[str, Any]) -> str:
    """CRC-32, as eight digits, of a text and of NumPy arrays or CPU tensors: their names, kinds, shapes and bytes."""
    value = zlib.crc32(header.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(_bytes(tensor), value)
    return f"{value:08x}"


def _bytes(tensor: Any) -> np.ndarray:
    if isinstance(tensor, np.ndarray):
        return np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
    import torch  # here, because the readers of CAM files do without

    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
