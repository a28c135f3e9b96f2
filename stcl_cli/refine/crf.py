"""Fully connected CRF by mean field; one code path for CPU and CUDA, no compiler.

Source: Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials" (NeurIPS
2011), as pydensecrf computes it: a position and a bilateral kernel, symmetric normalisation, Potts compatibility.

Shapes: K labels, S score sets, N pixels of all photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from stcl_cli.errors import StclError
from stcl_cli.refine.lattice import Lattice, build_lattice
from stcl_cli.refine.presets import CrfParams
from stcl_cli.runtime.device import upload

SMALLEST_PROB = 1e-5  # scores are clipped here before the logarithm, as in pydensecrf.utils
LARGEST_EXPONENT = 80.0  # exp of more nears float32's end; smaller exponents need no shift
LARGEST_FEATURE = 2.0**20  # beyond, a pixel's place in a simplex has few bits of float32 left
REUSED_BYTES = 31 * 2**20  # the largest block that glibc can be brought to reuse


@torch.no_grad()
def dense_crf(probs: Sequence[Tensor], photos: Sequence[np.ndarray | Tensor], params: CrfParams) -> list[Tensor]:
    """Marginals of the CRF for a batch of photos of any sizes, all on the device of the scores.

    probs: for each photo (K, H, W) softmax scores of the labels present in it, or (S, K, H, W): S sets of scores on one
    photo (a low and a high background score, say) share its lattice. K may differ from photo to photo, S may not.
    photos: for each (H, W, 3) uint8 RGB, on the CPU. Returns float32 tensors in the shapes of probs.
    """
    for p, photo in zip(probs, photos, strict=True):
        if p.shape[-2:] != photo.shape[:2]:
            raise ValueError(f"scores {tuple(p.shape)} and photo {tuple(photo.shape)} differ in size")
    _check_widths(params, max(max(photo.shape[:2]) for photo in photos))
    # Never touched. Having seen it freed, glibc reuses blocks up to its size and no longer asks the kernel for each:
    # about a tenth of the CPU time with 21 labels.
    torch.empty(REUSED_BYTES, dtype=torch.uint8)
    device, K = probs[0].device, max(p.shape[-3] for p in probs)
    sizes = tuple((p.shape[-2], p.shape[-1]) for p in probs)
    bilateral = build_lattice(_bilateral_features(photos, params, device))
    # A batch of photos of many sizes, on a GPU, hardly comes again: its lattice would lie there in vain.
    reused = device.type == "cpu" or len(set(sizes)) == 1
    position = (_position_lattice if reused else _position_lattice.__wrapped__)(sizes, params.pos_xy, device)

    log_probs = torch.cat([_log_rows(p, K) for p in probs])
    shape = log_probs.shape
    marginals = _softmax_(log_probs.clone())
    for _ in range(params.iterations):
        rows = marginals.flatten(1)
        score = position.filter(rows).view(shape)
        torch.add(log_probs, score, alpha=params.pos_weight, out=score)
        score.add_(bilateral.filter(rows).view(shape), alpha=params.bilateral_weight)
        marginals = _softmax_(score)
    pixels = marginals.split([H * W for H, W in sizes])
    return [_maps(rows, p.shape) for rows, p in zip(pixels, probs, strict=True)]


def probs_from_labels(labels_HW: Tensor, n_labels: int, confidence: float = 0.7, ignore: int = 255) -> Tensor:
    """Scores (K, H, W) for `dense_crf` from hard labels 0 ... K - 1; same energies as pydensecrf's unary_from_labels.

    A pixel's label has `confidence`, the others share the rest. Ignored pixels are uniform: the photo decides.
    """
    known = labels_HW != ignore
    others = (1 - confidence) / max(n_labels - 1, 1)
    probs = torch.full((n_labels, *labels_HW.shape), others, device=labels_HW.device)
    probs.scatter_(0, torch.where(known, labels_HW, 0).long()[None], confidence)
    return torch.where(known, probs, 1 / n_labels)


def _check_widths(params: CrfParams, side: int) -> None:
    """StclError for a kernel so narrow that float32 cannot tell places (up to `side`) or colours apart in it."""
    extents = {"pos_xy": side, "bilateral_xy": side, "bilateral_rgb": 255}
    for name, extent in extents.items():
        if extent / getattr(params, name) > LARGEST_FEATURE:
            option = f"--crf-{name.replace('_', '-')}"
            raise StclError(f"the CRF's kernels are too narrow for float32: give a larger {option}")


def _bilateral_features(photos: Sequence[np.ndarray | Tensor], params: CrfParams, device: torch.device) -> list[Tensor]:
    pixels_N3 = torch.from_numpy(np.concatenate([np.asarray(photo).reshape(-1, 3) for photo in photos]))
    colours_3N = _divide(upload(pixels_N3, device).t().float(), params.bilateral_rgb)  # one copy for all
    places = [_position_features(*photo.shape[:2], params.bilateral_xy, device) for photo in photos]
    colours = colours_3N.split([place.shape[1] for place in places], 1)
    return [torch.cat(both) for both in zip(places, colours, strict=True)]


@lru_cache(maxsize=4)  # of the position's and of the bilateral width, for the lattices below
def _position_features(H: int, W: int, width: float, device: torch.device) -> Tensor:
    y, x = torch.arange(H, device=device), torch.arange(W, device=device)
    return _divide(torch.stack([x.repeat(H), y.repeat_interleave(W)]).float(), width)


def _divide(x: Tensor, width: float) -> Tensor:
    return x / x.new_full((), width)  # by a number, CUDA would multiply by 1 / width


@lru_cache(maxsize=2)  # photos of one size often come together, upright or not; 55 MB of 768 x 1024 pixels
def _position_lattice(sizes: tuple[tuple[int, int], ...], width: float, device: torch.device) -> Lattice:
    return build_lattice([_position_features(H, W, width, device) for H, W in sizes])


def _log_rows(probs: Tensor, K: int) -> Tensor:
    """(K', H, W) or (S, K', H, W) scores to (H * W, S, K) logarithms; labels this photo lacks get -inf."""
    probs = probs.float().reshape(-1, probs.shape[-3], probs.shape[-2] * probs.shape[-1])
    log_probs = probs.clamp(SMALLEST_PROB, 1).log_().permute(2, 0, 1)
    return torch.nn.functional.pad(log_probs, (0, K - log_probs.shape[2]), value=-torch.inf).contiguous()


def _maps(marginals_NSK: Tensor, shape: torch.Size) -> Tensor:
    return marginals_NSK[:, :, : shape[-3]].permute(1, 2, 0).reshape(shape)


def _softmax_(x_NSK: Tensor) -> Tensor:
    """Softmax over labels, on the CPU in place; written out there, as torch's over a short last axis takes five times
    as long. On a GPU looking at the largest exponent would wait for it."""
    if x_NSK.is_cuda:
        return x_NSK.softmax(-1)
    if x_NSK.max() > LARGEST_EXPONENT:
        x_NSK -= x_NSK.amax(-1, keepdim=True)
    K = x_NSK.shape[-1]
    x = x_NSK.view(-1, K).exp_()
    x *= (x @ x.new_ones(K, 1)).reciprocal_()
    return x_NSK
