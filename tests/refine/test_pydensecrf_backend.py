"""The optional backend: same call as ours, a plain word when it is missing."""

from __future__ import annotations

import builtins

import pytest
import torch

from stcl_cli.errors import StclError
from stcl_cli.refine.presets import CRF_PRESETS
from stcl_cli.refine.pydensecrf_backend import dense_crf


def test_shapes_in_are_shapes_out():
    pytest.importorskip("pydensecrf")
    probs = [torch.rand(2, 3, 6, 9).softmax(1), torch.rand(2, 2, 5, 4).softmax(1)]
    photos = [torch.randint(0, 256, (*p.shape[-2:], 3), dtype=torch.uint8) for p in probs]
    together = dense_crf(probs, photos, CRF_PRESETS["psa"])
    assert [m.shape for m in together] == [p.shape for p in probs]
    alone = dense_crf([probs[0][1]], [photos[0].numpy()], CRF_PRESETS["psa"])[0]
    assert torch.equal(together[0][1], alone)
    torch.testing.assert_close(alone.sum(0), torch.ones(6, 9))


def test_missing_package_names_the_cure(monkeypatch: pytest.MonkeyPatch):
    real_import = builtins.__import__

    def without_pydensecrf(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("pydensecrf"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pydensecrf)
    with pytest.raises(StclError, match=r"stcl\[pydensecrf\]"):
        dense_crf([], [], CRF_PRESETS["irn"])
