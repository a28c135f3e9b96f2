"""The dense CRF by pydensecrf (optional extra), called like `stcl_cli.refine.crf.dense_crf`; CPU, a photo at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stcl_cli.errors import StclError
from stcl_cli.refine.crf import SMALLEST_PROB
from stcl_cli.refine.presets import CrfParams


def require() -> type:
    """pydensecrf's class. StclError if it is not installed."""
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise StclError(
            'pydensecrf is not installed: pip install "stcl[pydensecrf]" (needs a C++ compiler), or use --backend torch'
        ) from error
    return DenseCRF2D


def dense_crf(probs: Sequence[Tensor], photos: Sequence[np.ndarray | Tensor], params: CrfParams) -> list[Tensor]:
    """As `stcl_cli.refine.crf.dense_crf`: (K, H, W) or (S, K, H, W) scores and (H, W, 3) uint8 photos to marginals.

    Raises StclError if pydensecrf is not installed.
    """
    DenseCRF2D = require()

    def infer(probs_KHW: Tensor, photo_HW3: np.ndarray) -> Tensor:
        K, H, W = probs_KHW.shape
        crf = DenseCRF2D(W, H, K)
        crf.setUnaryEnergy(-probs_KHW.float().clamp(SMALLEST_PROB, 1).log().reshape(K, H * W).cpu().numpy())
        crf.addPairwiseGaussian(sxy=params.pos_xy, compat=params.pos_weight)
        crf.addPairwiseBilateral(
            sxy=params.bilateral_xy, srgb=params.bilateral_rgb, rgbim=photo_HW3, compat=params.bilateral_weight
        )
        return torch.from_numpy(np.array(crf.inference(params.iterations))).reshape(K, H, W).to(probs_KHW.device)

    marginals = []
    for p, photo in zip(probs, photos, strict=True):
        photo = np.ascontiguousarray(photo.cpu().numpy() if isinstance(photo, Tensor) else photo)
        marginals.append(torch.stack([infer(one, photo) for one in p.reshape(-1, *p.shape[-3:])]).reshape(p.shape))
    return marginals
