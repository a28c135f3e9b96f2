"""What several test files share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image

quick = settings(max_examples=25)
seeds = st.integers(0, 2**32 - 1)


def randn(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers that ask for their gradient."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def gradients(loss: torch.Tensor, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """The loss's gradients, after a look that they and the loss are finite."""
    grads = torch.autograd.grad(loss, inputs)
    assert torch.isfinite(loss)
    assert all(torch.isfinite(grad).all() for grad in grads)
    return list(grads)


def write_photo(path: Path, photo_HW3: np.ndarray) -> Path:
    """A lossless photo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo_HW3).save(path, "PNG")
    return path


@contextmanager
def stopped_after(iterations: int, stage: ModuleType) -> Iterator[None]:
    """A training of `stage` (train or segtrain) inside ends after so many iterations, as one that is killed would."""
    batches = stage.training_batches

    def stopping(*arguments: Any) -> Callable:
        of_range = batches(*arguments)
        return lambda first, last: islice(of_range(first, last), iterations)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stage, "training_batches", stopping)
        yield
