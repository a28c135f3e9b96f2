"""Gaussian filtering in any number of dimensions on the permutohedral lattice, as a chain of sparse matrices.

Source: Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice" (Eurographics 2010),
with the order of float32 operations, the 0.5 1 0.5 blur and the scale of Krähenbühl's code (pydensecrf), so that every
pixel lands in the same simplex there and here. Ours: vertices are packed into 64-bit keys (image first) and sorted
once; neighbours are found by hashing all at once, then binary search; splat, blurs and slice are bags of (index,
weight), a call each, but on a GPU where other calls are faster.

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
from stcl_cli.runtime.device import upload

# On a GPU a thread sums a bag: longer ones (a plain wall in one vertex) are cut, and summed in two levels.
LONGEST_BAG = 64
FEW_CHANNELS = 8  # up to which a GPU, by fetching rows one place after the other, is faster than bag by bag
GOLDEN_RATIO = -7046029254386353131  # 0.618... * 2^64, wrapped to int64: multiplicative hashing


class Bags(NamedTuple):
    """A sparse matrix by rows: row r sums weight[i] * x[index[i]] over i in start[r] ... start[r + 1] - 1."""

    index: Tensor  # int32
    start: Tensor  # int32
    weight: Tensor  # float32

    def __call__(self, x_NC: Tensor) -> Tensor:
        return F.embedding_bag(self.index, x_NC, self.start, mode="sum", per_sample_weights=self.weight)


class CutBags(NamedTuple):
    """Bags for a GPU, none longer than LONGEST_BAG: the rows of many pieces are summed again."""

    pieces: Bags
    first: Tensor  # piece of each row
    many: Tensor  # rows of more than one piece
    sums: Bags  # of pieces, for these rows

    def __call__(self, x_NC: Tensor) -> Tensor:
        pieces = self.pieces(x_NC)
        out = pieces.index_select(0, self.first)
        return out.index_copy_(0, self.many, self.sums(pieces)) if len(self.many) else out


class Rows(NamedTuple):
    """Bags with as many entries each."""

    bags: Bags
    length: int

    def __call__(self, x_MC: Tensor) -> Tensor:
        if x_MC.shape[1] > FEW_CHANNELS or not _on_gpu(x_MC):
            return self.bags(x_MC)
        index_RN, weight_RN = (flat.view(-1, self.length).t() for flat in (self.bags.index, self.bags.weight))
        out = x_MC.index_select(0, index_RN[0]).mul_(weight_RN[0, :, None])
        for index_N, weight_N in zip(index_RN[1:], weight_RN[1:], strict=True):
            out.addcmul_(x_MC.index_select(0, index_N), weight_N[:, None])
        return out


class Blur(NamedTuple):
    """A row, plus half of two others, for a GPU: five times as fast as bags of three."""

    above: Tensor
    below: Tensor

    def __call__(self, x_MC: Tensor) -> Tensor:
        around = x_MC.index_select(0, self.above).add_(x_MC.index_select(0, self.below))
        return torch.add(x_MC, around, alpha=0.5, out=around)


class Lattice(NamedTuple):
    """The kernel D^-1/2 K D^-1/2, K a Gaussian of unit width between the pixels of each image, D its row sums."""

    splat: Bags | CutBags
    blurs: Sequence[Bags | Blur]
    slice: Rows

    def filter(self, x_NC: Tensor) -> Tensor:
        for step in (self.splat, *self.blurs, self.slice):
            x_NC = step(x_NC)
        return x_NC


def build_lattice(features: Sequence[Tensor]) -> Lattice:
    """One lattice for a batch. features: for each image (D, N_i) float32, already divided by the kernel's widths.

    The pixels of all images, one after the other, are the rows that `Lattice.filter` takes and gives.
    """
    D, device = features[0].shape[0], features[0].device
    R, N = D + 1, sum(f.shape[1] for f in features)
    # The oracle works on four pixels at a time and fills the last four with zero features: they add vertices, no mass.
    fill = [-f.shape[1] % 4 for f in features]
    counts = upload(torch.tensor([*(f.shape[1] for f in features), *fill]), device)
    images_N = torch.arange(len(features), device=device).repeat(2)
    images_N = images_N.repeat_interleave(counts, output_size=N + sum(fill))  # a size that is known is not waited for
    origin_RN, rank_RN, weight_RN = _simplex(torch.cat([*features, features[0].new_zeros(D, sum(fill))], 1))
    keys_RN, steps, period = _pack(origin_RN, rank_RN, images_N, len(features))
    # Keys start with the remainder, so rows can be sorted one by one: on a CPU twice as fast as all at once.
    sorted_keys, pixel = (torch.cat(x) for x in zip(*(row.sort(stable=True) for row in keys_RN), strict=True))
    vertices_M, vertex, length_M = torch.unique_consecutive(sorted_keys, return_inverse=True, return_counts=True)
    pixel_RN, vertex_RN = pixel.view(R, -1), vertex.int().view(R, -1)

    weight_RN[:, N:] = 0
    start = F.pad(length_M.cumsum(0), (1, 0)).int()  # the last bag is empty: the vertex nowhere
    splat = Bags(pixel.int().clamp_(max=N - 1), start, weight_RN.gather(1, pixel_RN).flatten())
    vertex_NR = torch.empty_like(vertex_RN).scatter_(1, pixel_RN, vertex_RN)[:, :N].t()
    slice_start = torch.arange(0, N * R, R, dtype=torch.int32, device=device)
    slice_ = Bags(vertex_NR.flatten(), slice_start, (weight_RN[:, :N].t() / (1 + 2.0**-D)).flatten())
    return _normalise(splat, _blurs(vertices_M, steps, period), Rows(slice_, R))


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


def _pack(origin_RN: Tensor, rank_RN: Tensor, images_N: Tensor, images: int) -> tuple[Tensor, Tensor, int]:
    """Keys (R, N) int64 of the vertices around each pixel, steps (R,) to a key's upper neighbours, and their period.

    A key's digits are the vertex's remainder, its image and its first D coordinates (all R sum to zero).
    """
    R = len(origin_RN)
    D = R - 1
    margin = 2 * R  # vertices and their neighbours stay within one digit's range
    low = [x - margin for x in origin_RN[:D].amin(1).tolist()]
    size = [x + margin + 1 - y for x, y in zip(origin_RN[:D].amax(1).tolist(), low, strict=True)]
    image_stride = math.prod(size)
    row_stride = image_stride * images
    if row_stride * R >= 2**63:
        raise StclError("the CRF's kernels are too narrow for a 64-bit lattice: give larger --crf-bilateral-rgb or -xy")
    strides = [math.prod(size[i + 1 :]) for i in range(D)] + [0]
    key_N = images_N * image_stride
    for i in range(D):
        key_N += (origin_RN[i] - low[i]) * strides[i]
    # From vertex r - 1 to r every coordinate grows by 1, but the one of rank R - r falls by D.
    stride_R1 = upload(torch.tensor(strides), key_N.device)[:, None]
    by_rank_RN = torch.empty_like(rank_RN).scatter_(0, rank_RN, stride_R1.expand_as(rank_RN))
    jumps = row_stride + sum(strides) - R * by_rank_RN[1:].flip(0)
    # The upper neighbour has 1 less in every coordinate, but D more in its own; its remainder is the one before.
    steps = R * stride_R1[:, 0] - sum(strides) - row_stride
    return torch.cat([key_N[None], jumps]).cumsum_(0), steps, R * row_stride


def _blurs(vertices_M: Tensor, steps: Tensor, period: int) -> list[Bags] | list[Blur]:
    """Along each axis in turn: a vertex, plus half of its two neighbours. A missing one is vertex M, which stays 0."""
    M, R, device = len(vertices_M), len(steps), vertices_M.device
    wanted_RM = vertices_M + steps[:, None]
    wanted_RM += (wanted_RM < 0) * period  # before remainder 0 comes D
    own = torch.arange(M + 1, dtype=torch.int32, device=device).repeat(R, 1)
    above = F.pad(_find(vertices_M, wanted_RM.flatten()).view(R, M), (0, 1), value=M)
    below = torch.full_like(own, M).scatter_(1, above.long(), own)
    below[:, M] = M
    if device.type == "cuda":
        return [Blur(*pair) for pair in zip(above, below, strict=True)]
    start = torch.arange(0, 3 * M + 3, 3, dtype=torch.int32, device=device)
    weight = torch.tensor([1, 0.5, 0.5], device=device).repeat(M + 1)
    return [Bags(index_M3.flatten(), start, weight) for index_M3 in torch.stack([own, above, below], 2)]


def _find(sorted_keys: Tensor, wanted: Tensor) -> Tensor:
    """For each wanted key its place (int32), or how many keys there are if it is none of them.

    A slot of the hash table holds one key. Where it had to refuse others, binary search decides; alone it takes twice
    as long.
    """
    M, device = len(sorted_keys), wanted.device
    bits = (8 * M).bit_length()
    own = torch.arange(M, dtype=torch.int32, device=device)
    hashes = (keys * GOLDEN_RATIO for keys in (sorted_keys, wanted))
    slot_M, slot = (x.bitwise_right_shift_(64 - bits).bitwise_and_(2**bits - 1) for x in hashes)
    table = own.new_zeros(2**bits).scatter_(0, slot_M, own)
    crowded = torch.zeros(2**bits, dtype=torch.bool, device=device)
    crowded[slot_M[table.index_select(0, slot_M) != own]] = True

    place = table.index_select(0, slot)
    missed = sorted_keys.index_select(0, place) != wanted
    again = (crowded.index_select(0, slot) & missed).nonzero()[:, 0]
    place.masked_fill_(missed, M)
    searched = torch.searchsorted(sorted_keys, wanted[again], out_int32=True).clamp_(max=M - 1)
    place[again] = torch.where(sorted_keys[searched] == wanted[again], searched, place[again])
    return place


def _normalise(splat: Bags, blurs: Sequence[Bags | Blur], slice_: Rows) -> Lattice:
    """Fold 1 / sqrt(row sum) into the weights on both sides (symmetric normalisation)."""
    N, weight = len(slice_.bags.start), splat.weight
    lattice = Lattice(_cut(splat) if weight.is_cuda else splat, blurs, slice_)
    scale_N1 = (lattice.filter(torch.ones(N, 1, device=weight.device)) + 1e-20).rsqrt_()
    weight.mul_(scale_N1[:, 0].index_select(0, splat.index))  # _cut shares this tensor
    slice_.bags.weight.view(N, -1).mul_(scale_N1)
    return lattice


def _cut(bags: Bags) -> CutBags:
    length_M = torch.diff(bags.start, append=bags.start.new_full((1,), len(bags.index)))
    count_M = ((length_M + LONGEST_BAG - 1) // LONGEST_BAG).clamp_(min=1)  # an empty bag is one empty piece
    first_M = count_M.cumsum(0, dtype=torch.int32) - count_M
    first_P, number_P = _spread(first_M, count_M)
    start_P = bags.start.repeat_interleave(count_M, output_size=len(first_P)) + number_P * LONGEST_BAG
    many = (count_M > 1).nonzero()[:, 0]
    first_L, count_L = first_M[many], count_M[many]
    start, number = _spread(first_L, count_L)
    sums = Bags(start + number, count_L.cumsum(0, dtype=torch.int32) - count_L, torch.ones_like(start.float()))
    return CutBags(Bags(bags.index, start_P, bags.weight), first_M, many, sums)


def _spread(value_M: Tensor, count_M: Tensor) -> tuple[Tensor, Tensor]:
    """Each value as often as its count says, and which of its copies that is, from 0 (int32)."""
    end_M = count_M.cumsum(0, dtype=torch.int32)
    total = int(end_M[-1]) if len(end_M) else 0
    values, starts = (x.repeat_interleave(count_M, output_size=total) for x in (value_M, end_M - count_M))
    return values, torch.arange(total, dtype=torch.int32, device=count_M.device) - starts


def _on_gpu(x: Tensor) -> bool:
    return x.is_cuda


def _float32(x: float) -> float:
    return torch.tensor(x, dtype=torch.float32).item()
