"""Gaussian filtering in any number of dimensions on the permutohedral lattice, as a chain of sparse matrices.

Source: Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (Eurographics 2010),
with the order of float32 operations, the 0.5 1 0.5 blur and the scale of Krähenbühl's code (pydensecrf), so that every
pixel lands in the same simplex there and here. Ours: no hash table. Vertices are packed into 64-bit keys (image first)
and sorted once; neighbours are found by binary search; splat, blurs and slice are bags of (index, weight), a call each.

Shapes: D feature dimensions, R = D + 1 vertices of a simplex, N pixels of all images, M lattice vertices, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stcl_cli.errors import StclError

LONGEST_BAG = (
    64  # on a GPU, where one thread sums a bag: longer bags (a plain wall in one vertex) are cut in two levels
)


class Bags(NamedTuple):
    """A sparse matrix by rows: row r sums weight[i] * x[index[i]] over i in start[r] ... start[r + 1] - 1."""

    index: Tensor  # int32
    start: Tensor  # int32
    weight: Tensor  # float32

    def __call__(self, x_NC: Tensor) -> Tensor:
        return F.embedding_bag(self.index, x_NC, self.start, mode="sum", per_sample_weights=self.weight)


class Lattice(NamedTuple):
    """The kernel D^-1/2 K D^-1/2, K a Gaussian of unit width between the pixels of each image, D its row sums."""

    splat: list[Bags]
    blurs: list[Bags]
    slice: Bags

    def filter(self, x_NC: Tensor) -> Tensor:
        for bags in (*self.splat, *self.blurs, self.slice):
            x_NC = bags(x_NC)
        return x_NC


def build_lattice(features: Sequence[Tensor]) -> Lattice:
    """One lattice for a batch. features: for each image (D, N_i) float32, already divided by the kernel's widths.

    The pixels of all images, one after the other, are the rows that `Lattice.filter` takes and gives.
    """
    D, device = features[0].shape[0], features[0].device
    R, N = D + 1, sum(f.shape[1] for f in features)
    # The oracle works on four pixels at a time and fills the last four with zero features: they add vertices, no mass.
    fill = [-f.shape[1] % 4 for f in features]
    counts = torch.tensor([[f.shape[1] for f in features], fill], device=device).flatten()
    images_N = torch.arange(len(features), device=device).repeat(2).repeat_interleave(counts)
    origin_RN, rank_RN, weight_RN = _simplex(torch.cat([*features, features[0].new_zeros(D, sum(fill))], 1))
    keys_RN, steps = _pack(origin_RN, rank_RN, images_N)

    weight_NR = weight_RN.t().contiguous()
    weight_NR[N:] = 0
    sorted_keys, order = keys_RN.t().flatten().sort(stable=True)
    vertices_M, vertex, length_M = torch.unique_consecutive(sorted_keys, return_inverse=True, return_counts=True)
    start_M = (length_M.cumsum(0) - length_M).int()
    splat = Bags((order.int() // R).clamp_(max=N - 1), start_M, weight_NR.flatten().index_select(0, order))
    slice_start = torch.arange(0, N * R, R, dtype=torch.int32, device=device)
    vertex = torch.empty_like(vertex, dtype=torch.int32).scatter_(0, order, vertex.int())
    slice_ = Bags(vertex[: N * R], slice_start, weight_NR[:N].flatten() / (1 + 2.0**-D))
    return _normalise(splat, _blurs(vertices_M, steps), slice_)


def _simplex(features_DN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The simplex around each feature: its remainder-0 vertex and rank (both R, N; int), barycentric weights (R, N).

    Float32 in the oracle's order of operations: a pixel on a border must fall to the same side.
    """
    D, N = features_DN.shape
    R = D + 1
    spread = _float32(math.sqrt(2 / 3) * R)
    elevated_RN = features_DN.new_empty(R, N)
    total = features_DN.new_zeros(N)
    for j in range(D, 0, -1):
        scaled = features_DN[j - 1] * _float32(spread / math.sqrt(j * (j + 1)))
        torch.sub(total, scaled * j, out=elevated_RN[j])
        total = total + scaled
    elevated_RN[0] = total

    nearest_RN = (elevated_RN * _float32(1 / R)).round_()
    offset_RN = elevated_RN - nearest_RN * R
    rank_RN = torch.arange(R, dtype=torch.int8, device=total.device)[:, None].repeat(1, N)
    for i in range(D):  # how many coordinates have a larger offset; of equal ones the first counts as the smaller rank
        smaller = (offset_RN[i] < offset_RN[i + 1 :]).to(torch.int8)
        rank_RN[i] += smaller.sum(0, dtype=torch.int8)
        rank_RN[i + 1 :] -= smaller
    rank_RN += nearest_RN.sum(0).to(torch.int8)  # not 0 where rounding left the plane of coordinates that sum to zero
    wrap = (rank_RN < 0).to(torch.int8) - (rank_RN > D).to(torch.int8)
    rank_RN += wrap * R
    nearest_RN += wrap

    offset_RN = (elevated_RN - nearest_RN * R) * _float32(1 / R)
    rank_RN = rank_RN.long()
    by_rank_RN = torch.empty_like(offset_RN).scatter_(0, rank_RN, offset_RN).flip(0)
    weight_RN = torch.cat([by_rank_RN[:1] + (1 - by_rank_RN[-1:]), by_rank_RN[1:] - by_rank_RN[:-1]])
    return nearest_RN.long() * R, rank_RN, weight_RN


def _pack(origin_RN: Tensor, rank_RN: Tensor, images_N: Tensor) -> tuple[Tensor, list[int]]:
    """Keys (R, N) int64 of the R vertices of each pixel, and for each axis what its upper neighbour's key has more.

    A vertex is its image and its first D coordinates (all R sum to zero), written as the digits of one number.
    """
    R = len(origin_RN)
    D = R - 1
    margin = 2 * R  # vertices and their neighbours stay within one digit's range
    low = [x - margin for x in origin_RN[:D].amin(1).tolist()]
    size = [x + margin + 1 - y for x, y in zip(origin_RN[:D].amax(1).tolist(), low, strict=True)]
    strides = [math.prod(size[i + 1 :]) for i in range(D)] + [0]
    if strides[0] * size[0] * (int(images_N[-1]) + 1) >= 2**63:
        raise StclError("the CRF's kernels are too narrow for a 64-bit lattice: use larger widths (bilateral-rgb, xy)")
    key_N = images_N * (strides[0] * size[0])
    for i in range(D):
        key_N += (origin_RN[i] - low[i]) * strides[i]
    # From vertex r - 1 to r every coordinate grows by 1, but the one of rank R - r falls by D.
    stride_R1 = torch.tensor(strides, device=key_N.device)[:, None]
    by_rank_RN = torch.empty_like(rank_RN).scatter_(0, rank_RN, stride_R1.expand_as(rank_RN))
    jumps = sum(strides) - R * by_rank_RN[1:].flip(0)
    return torch.cat([key_N[None], jumps]).cumsum(0), [R * stride - sum(strides) for stride in strides]


def _blurs(vertices_M: Tensor, steps: list[int]) -> list[Bags]:
    """Along each axis in turn: a vertex, plus half of its two neighbours where they exist."""
    M = len(vertices_M)
    own = torch.arange(M, device=vertices_M.device)
    start, nowhere = (own * 3).int(), torch.full_like(own, M)
    blurs = []
    for step in steps:
        wanted = vertices_M + step
        above = torch.searchsorted(vertices_M, wanted).clamp_(max=M - 1)
        above = torch.where(vertices_M.index_select(0, above) == wanted, above, nowhere)
        below = torch.full((M + 1,), M, device=own.device).scatter_(0, above, own)[:M]
        index_M3, weight_M3 = start.new_empty(M, 3), torch.ones(M, 3, device=own.device)
        index_M3[:, 0] = own
        for side, neighbour in enumerate((above, below), 1):
            exists = neighbour != M
            index_M3[:, side] = torch.where(exists, neighbour, own)
            weight_M3[:, side] = exists * 0.5
        blurs.append(Bags(index_M3.flatten(), start, weight_M3.flatten()))
    return blurs


def _normalise(splat: Bags, blurs: list[Bags], slice_: Bags) -> Lattice:
    """Fold 1 / sqrt(row sum) into the weights on both sides (symmetric normalisation)."""
    N = len(slice_.start)
    splats = _cut(splat) if splat.index.is_cuda else [splat]
    row_sum_N1 = Lattice(splats, blurs, slice_).filter(torch.ones(N, 1, device=splat.weight.device))
    scale_N1 = (row_sum_N1 + 1e-20).rsqrt_()
    splat.weight.mul_(scale_N1[:, 0].index_select(0, splat.index))  # _cut shares this tensor
    slice_.weight.view(N, -1).mul_(scale_N1)
    return Lattice(splats, blurs, slice_)


def _cut(bags: Bags) -> list[Bags]:
    """The same sums in two levels, no bag of the first longer than LONGEST_BAG."""
    length = torch.diff(bags.start, append=bags.start.new_tensor([len(bags.index)]))
    pieces = (length + LONGEST_BAG - 1) // LONGEST_BAG
    first_piece = pieces.cumsum(0, dtype=torch.int32) - pieces
    count = int(pieces.sum())
    within = torch.arange(count, dtype=torch.int32, device=pieces.device) - first_piece.repeat_interleave(pieces)
    start = bags.start.repeat_interleave(pieces) + within * LONGEST_BAG
    ones = torch.ones(count, device=pieces.device)
    pieces_of_bag = torch.arange(count, dtype=torch.int32, device=pieces.device)
    return [Bags(bags.index, start, bags.weight), Bags(pieces_of_bag, first_piece, ones)]


def _float32(x: float) -> float:
    return torch.tensor(x, dtype=torch.float32).item()
