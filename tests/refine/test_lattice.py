"""The lattice against a plain Python one (dictionaries, float64, pixel by pixel), and by its properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stcl_cli.errors import StclError
from stcl_cli.refine import lattice
from stcl_cli.refine.lattice import build_lattice


def features(D: int, N: int, seed: int = 0, spread: float = 2.0) -> Tensor:
    """N random points in D dimensions, none near a border of the lattice's cells (float32 is float64 there)."""
    return spread * torch.rand(D, N, generator=torch.Generator().manual_seed(seed))


def plain_simplex(feature: list[float]) -> list[tuple[tuple[int, ...], float]]:
    """The R vertices (coordinates) around a point and their barycentric weights, after Adams et al. 2010, section 3."""
    R = len(feature) + 1
    scaled = [x * math.sqrt(2 / 3) * R / math.sqrt((i + 1) * (i + 2)) for i, x in enumerate(feature)]
    elevated = [sum(scaled[i:]) - (i * scaled[i - 1] if i else 0) for i in range(R)]
    origin = [R * round(x / R) for x in elevated]
    excess = sum(origin) // R
    by_offset = sorted(range(R), key=lambda i: origin[i] - elevated[i])
    for i in by_offset[R - excess :] if excess > 0 else by_offset[: -excess or None] if excess else []:
        origin[i] -= R * (1 if excess > 0 else -1)
    order = sorted(range(R), key=lambda i: origin[i] - elevated[i])  # largest offset first
    offset = [(elevated[i] - origin[i]) / R for i in order]
    vertices = []
    for r in range(R):
        moved = set(order[R - r :])
        coordinates = tuple(x + r - (R if i in moved else 0) for i, x in enumerate(origin))
        weight = offset[R - 1 - r] - offset[R - r] if r else 1 - offset[0] + offset[-1]
        vertices.append((coordinates, weight))
    return vertices


def plain_filter(points: Tensor, x_N: list[float]) -> list[float]:
    """Splat, blur along each axis in turn, slice; with the empty pixels at zero that fill up blocks of four."""
    D, N = points.shape
    R = D + 1
    simplices = [plain_simplex(point) for point in points.double().t().tolist()]
    values = dict.fromkeys([v for v, _ in plain_simplex([0.0] * D)], 0.0) if N % 4 else {}
    for simplex, x in zip(simplices, x_N, strict=True):
        for vertex, weight in simplex:
            values[vertex] = values.get(vertex, 0) + weight * x
    for axis in range(R):
        steps = [tuple(sign * (R * (i == axis) - 1) for i in range(R)) for sign in (1, -1)]
        around = {v: [tuple(a + b for a, b in zip(v, step, strict=True)) for step in steps] for v in values}
        values = {v: x + 0.5 * sum(values.get(near, 0) for near in around[v]) for v, x in values.items()}
    return [sum(weight * values[vertex] for vertex, weight in simplex) / (1 + 2**-D) for simplex in simplices]


@pytest.mark.parametrize(("D", "N", "spread"), [(2, 60, 3.0), (5, 61, 0.7), (5, 42, 3.0), (3, 1, 1.0)])
def test_filter_is_the_plain_one(D: int, N: int, spread: float):
    points = features(D, N, spread=spread)
    x_N = torch.rand(N, generator=torch.Generator().manual_seed(1)).double()
    scale_N = torch.tensor(plain_filter(points, [1.0] * N)).rsqrt().double()
    expected = scale_N * torch.tensor(plain_filter(points, (scale_N * x_N).tolist())).double()
    got = build_lattice([points]).filter(x_N[:, None].float())[:, 0]
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-4)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), D=st.integers(1, 5), fours=st.integers(1, 15), spread=st.floats(0.1, 5))
def test_features_of_opposite_sign_are_filtered_alike(seed: int, D: int, fours: int, spread: float):
    """The lattice is its own image in the origin. Not with N that is no multiple of 4: the oracle then adds vertices
    around the origin itself, where a tie decides which. Nor is a flip a symmetry: it negates one feature of several."""
    points = features(D, 4 * fours, seed, spread) - spread / 2
    x = torch.rand(4 * fours, 2, generator=torch.Generator().manual_seed(seed))
    plain, negated = (build_lattice([sign * points]).filter(x) for sign in (1, -1))
    torch.testing.assert_close(negated, plain, atol=1e-5, rtol=1e-4)


def test_batch_keeps_images_apart():
    batch = [features(5, N, seed, 1.5) for seed, N in enumerate((13, 8, 30))]
    x = torch.rand(51, 3)
    together = build_lattice(batch).filter(x)
    alone = [build_lattice([f]).filter(part) for f, part in zip(batch, x.split([13, 8, 30]), strict=True)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_equal_pixels_share_their_mean():
    """One vertex set for all pixels: the kernel is all ones, so symmetric normalisation leaves the mean."""
    x = torch.rand(40, 2)
    torch.testing.assert_close(build_lattice([torch.full((5, 40), 0.3)]).filter(x), x.mean(0).expand(40, 2))


def test_far_pixels_do_not_meet():
    x = torch.rand(4, 1)
    torch.testing.assert_close(build_lattice([torch.arange(4.0).repeat(2, 1) * 50]).filter(x), x)


def test_crowded_hash_slots_fall_back_to_search(monkeypatch: pytest.MonkeyPatch):
    points, x = features(5, 200), torch.rand(200, 2)
    expected = build_lattice([points]).filter(x)
    monkeypatch.setattr(lattice, "GOLDEN_RATIO", 1)  # every key hashes to slot 0
    assert torch.equal(build_lattice([points]).filter(x), expected)


def test_long_bags_in_two_levels_sum_the_same(monkeypatch: pytest.MonkeyPatch):
    plain = build_lattice([features(5, 300, spread=0.2)])
    monkeypatch.setattr(lattice, "LONGEST_BAG", 7)
    splat, x = plain.splat, torch.rand(300, 3)
    cut = lattice._cut(splat)
    assert torch.diff(cut.pieces.start).max() <= 7
    assert cut.pieces.weight is splat.weight  # which normalisation scales afterwards
    assert 0 < len(cut.many) < len(cut.first)
    torch.testing.assert_close(cut(x), splat(x))
    assert torch.equal(cut(x)[-1], torch.zeros(3))  # the vertex nowhere, an empty bag


def test_no_bag_is_long():
    splat, x = build_lattice([features(5, 40)]).splat, torch.rand(40, 3)
    cut = lattice._cut(splat)
    assert not len(cut.many)
    assert torch.equal(cut(x), splat(x))


def test_steps_of_a_gpu_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch):
    plain, x = build_lattice([features(5, 300, spread=0.7)]), torch.rand(300, 3)
    vertices = plain.splat(x)
    for bags in plain.blurs:
        own, above, below = bags.index.view(-1, 3).t()
        assert torch.equal(own, torch.arange(len(own)))
        torch.testing.assert_close(lattice.Blur(above, below)(vertices), bags(vertices))
    monkeypatch.setattr(lattice, "_on_gpu", lambda x: True)
    torch.testing.assert_close(plain.slice(vertices), plain.slice.bags(vertices))
    many = torch.rand(len(vertices), lattice.FEW_CHANNELS + 1)
    assert torch.equal(plain.slice(many), plain.slice.bags(many))


def test_keys_that_do_not_fit_are_refused():
    with pytest.raises(StclError, match="too narrow"):
        build_lattice([features(5, 20, spread=1e5)])
