"""The steps of `--method`: which are taken, in which order, and with which numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pretended_cuda import pretended

from stcl_cli.config import RefineConfig
from stcl_cli.errors import StclError
from stcl_cli.formats.cams import CamFile
from stcl_cli.refine import chain, crf, pydensecrf_backend
from stcl_cli.refine.par import pixel_adaptive_refine
from stcl_cli.refine.presets import CRF_PRESETS, CrfParams


def refine_masks(sources, photos, config: RefineConfig) -> list[np.ndarray]:
    scores = chain.refine_scores(sources, photos, config, torch.device("cpu"))
    return [
        chain.mask_of(None if own is None else own.numpy(), source) for own, source in zip(scores, sources, strict=True)
    ]


def configured(**settings) -> RefineConfig:
    return RefineConfig(cams="", images="", output="", **settings)


def scene(labels: tuple[int, ...] = (0, 2), seed: int = 0) -> tuple[CamFile, np.ndarray]:
    """Random CAMs on a photo of 16 x 24, with an affinity of 4 x 6 patches."""
    rng = np.random.default_rng(seed)
    affinity = rng.random((4, 6, 9), np.float32)
    cams = rng.random((len(labels), 8, 12), np.float32)
    cam = CamFile(("a", "b", "c"), labels, cams, (32, 48), affinity_hwJ=affinity)
    return cam, rng.integers(0, 256, (16, 24, 3), np.uint8)


@pytest.mark.parametrize("method", [None, "none", "affinity", "par", "crf", "affinity,par,crf"])
def test_masks_have_the_photo_s_size_and_the_labels_values(method: str | None):
    settings = {"method": method} if method else {}
    photos = [scene(), scene((1,)), scene(())]
    masks = refine_masks(*zip(*photos, strict=True), configured(background=(0.3, 0.6), **settings))
    assert [mask.shape for mask in masks] == [(32, 48)] * 3
    assert set(np.unique(masks[0])) <= {0, 1, 3, 255}
    assert set(np.unique(masks[1])) <= {0, 2, 255}
    assert not masks[2].any()


def test_a_batch_is_its_photos_one_by_one():
    photos, config = [scene(), scene((1,), 1), scene((0, 1), 2)], configured(method="affinity,par,crf")
    together = refine_masks(*zip(*photos, strict=True), config)
    for mask, (cam, photo) in zip(together, photos, strict=True):
        assert np.array_equal(mask, refine_masks([cam], [photo], config)[0])


def test_the_best_slots_of_a_photo_that_was_not_reduced_are_enough():
    """And of one that was, and of a mask, the scores."""
    (cam, _), scores = scene(), torch.rand(2, 3, 32, 48).round(decimals=1)
    kept = chain.smallest(scores, cam)
    assert (kept.dtype, kept.shape) == (torch.uint8, (2, 32, 48))
    assert np.array_equal(chain.mask_of(kept.numpy(), cam), chain.mask_of(scores.numpy(), cam))
    reduced, mask = torch.rand(2, 3, 16, 24), chain.HardLabels(np.zeros((32, 48), np.uint8), (32, 48))
    assert chain.smallest(reduced, cam) is reduced
    assert chain.smallest(scores, mask) is scores


def test_nothing_but_the_lattice_waits_for_a_gpu():
    photos = [scene(), scene((1,), 1), scene((0, 1), 2)]
    with pretended() as waits:
        for method in ("none", "affinity,par"):
            pixel_adaptive_refine(torch.rand(1, 1, 4, 4, device="cuda"), torch.rand(1, 3, 4, 4, device="cuda"))
            waits.clear()  # numbers that are kept
            settings = configured(method=method, background=(0.3, 0.6))
            scores = chain.refine_scores(*zip(*photos, strict=True), settings, torch.device("cuda"))
            assert all(chain.smallest(own, cam).is_cuda for own, (cam, _) in zip(scores, photos, strict=True))
            assert not waits


def test_steps_are_taken_from_coarse_to_fine(monkeypatch: pytest.MonkeyPatch):
    taken = []
    for name in ("random_walk", "pixel_adaptive_refine", "with_background"):
        step = getattr(chain, name)
        monkeypatch.setattr(chain, name, lambda *a, name=name, step=step: taken.append(name) or step(*a))
    real_crf = crf.dense_crf
    monkeypatch.setattr(crf, "dense_crf", lambda *a: taken.append("dense_crf") or real_crf(*a))
    cam, photo = scene()
    refine_masks([cam], [photo], configured(method="affinity,par,crf"))
    assert taken == ["with_background", "random_walk", "pixel_adaptive_refine", "dense_crf"]
    taken.clear()
    refine_masks([cam], [photo], configured(method="none"))
    assert taken == ["with_background"]


def test_walk_options_reach_the_walk():
    """Every patch is most like its neighbours on the right, a little like itself; only the last column is activated."""
    affinity = np.zeros((4, 6, 9), np.float32)
    affinity[:, :5, [2, 5, 8]] = 1  # right above, right, right below
    affinity[:, :, 4] = 0.5
    cam, photo = scene((0,))
    maps = np.zeros((1, 4, 6), np.float32)
    maps[0, :, 5] = 1
    cam = replace(cam, cam_KHW=maps, affinity_hwJ=affinity)

    def share(**settings: float) -> float:
        return (refine_masks([cam], [photo], configured(method="affinity", **settings))[0] > 0).mean()

    assert share(walk_steps=0) < 0.25
    assert share(walk_steps=8, walk_sharpness=2.0) == 1.0


MASK = np.zeros((16, 24), np.uint8)
MASK[4:12, 6:18] = 3
MASK[0] = 255


@pytest.mark.parametrize("method", ["none", "par", "crf", "par,crf"])
def test_masks_in_place_of_cams(method: str):
    """Of the (reduced) photo's size in, of the photo's own out; with values that no class between them has."""
    photo = np.where(MASK[..., None] == 3, 200, 50).astype(np.uint8).repeat(3, 2)
    sources = [chain.HardLabels(MASK, (32, 48)), scene()[0], chain.HardLabels(MASK, (16, 24))]
    masks = refine_masks(sources, [photo, scene()[1], photo], configured(method=method))
    assert [mask.shape for mask in masks] == [(32, 48), (32, 48), (16, 24)]
    if method == "none":  # nothing decides what 255 is
        assert (masks[2] == MASK).all()
        assert set(np.unique(masks[0])) == {0, 3, 255}
        return
    assert set(np.unique(masks[0])) == {0, 3}
    assert (masks[2] == np.where(MASK == 255, 0, MASK)).mean() > 0.98
    if "crf" in method:
        assert not masks[2][0].any()  # 255 says nothing: the photo does


def test_a_mask_of_few_labels_needs_no_photo():
    masks = [np.full((4, 5), value, np.uint8) for value in (0, 7, 255)]
    masks[1][0] = 255  # to be filled; a mask that is all ignored says nothing to fill it with
    sources = [chain.HardLabels(mask, (8, 10)) for mask in masks]
    refined = refine_masks(sources, [np.zeros((4, 5, 3), np.uint8)] * 3, configured(method="crf"))
    assert [np.unique(mask).tolist() for mask in refined] == [[0], [7], [255]]
    assert [mask.shape for mask in refined] == [(8, 10)] * 3


@pytest.mark.parametrize("value", [0, 7])
def test_without_a_step_a_mask_of_one_label_keeps_what_it_leaves_open(value: int):
    mask = np.full((4, 5), value, np.uint8)
    mask[0, :2] = 255
    refined = refine_masks(
        [chain.HardLabels(mask, (4, 5)), chain.HardLabels(np.full((4, 5), 255, np.uint8), (4, 5))],
        [np.zeros((4, 5, 3), np.uint8)] * 2,
        configured(method="none"),
    )
    assert (refined[0] == mask).all()
    assert (refined[1] == 255).all()


def test_confidence_is_how_far_the_photo_may_overrule_a_mask():
    """A single pixel of another label on a plain photo: a speck at a low confidence, kept at a high one."""
    speck = np.zeros((16, 24), np.uint8)
    speck[8, 12] = 2
    photo, source = np.full((16, 24, 3), 90, np.uint8), chain.HardLabels(speck, (16, 24))

    def kept(confidence: float) -> bool:
        config = configured(method="crf", confidence=confidence)
        return bool(refine_masks([source], [photo], config)[0][8, 12] == 2)

    assert [kept(confidence) for confidence in (0.6, 0.99999)] == [False, True]


def test_given_numbers_replace_the_preset_s():
    assert chain.crf_params(configured(crf_preset="psa")) == CRF_PRESETS["psa"]
    numbers = {
        "crf_pos_xy": 1.5,
        "crf_pos_weight": 0.0,
        "crf_bilateral_xy": 40.0,
        "crf_bilateral_rgb": 7.0,
        "crf_bilateral_weight": 2.0,
        "crf_iterations": 0,
    }
    assert chain.crf_params(configured(**numbers)) == CrfParams(1.5, 0.0, 40.0, 7.0, 2.0, 0)


def test_backends(monkeypatch: pytest.MonkeyPatch):
    assert chain.dense_crf_of("torch") is crf.dense_crf
    pytest.importorskip("pydensecrf")
    assert chain.dense_crf_of("pydensecrf") is pydensecrf_backend.dense_crf


def test_narrow_kernels_name_the_option():
    cam, photo = scene()
    with pytest.raises(StclError, match="--crf-bilateral-rgb"):
        refine_masks([cam], [photo], configured(crf_bilateral_rgb=1e-4, crf_bilateral_xy=1e-4))
