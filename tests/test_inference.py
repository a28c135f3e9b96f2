import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stcl_cli import inference
from stcl_cli.cams import normalise_cams
from stcl_cli.inference import label_maps, network_size, photo_affinities, photo_cams, photo_scores
from stcl_cli.memory import memory_maps
from stcl_cli.runtime.device import make_runtime
from stcl_models.backbone import Backbone
from stcl_models.segmenter import VitSegmenter
from stcl_models.stcl import Stcl

CPU = make_runtime("cpu")
PHOTO = np.random.default_rng(0).integers(0, 256, (45, 62, 3)).astype(np.uint8)


def a_model_with_a_memory() -> Stcl:
    torch.manual_seed(0)
    model = Stcl(Backbone("stcl_tiny"), 3, memory={"slots": 2}).eval()
    model.memory.discriminant.copy_(F.normalize(torch.randn_like(model.memory.discriminant), dim=1))
    model.memory.offset.normal_()
    model.memory.trust.fill_(1)
    return model


def test_cams_of_a_photo_of_any_size():
    model = a_model_with_a_memory()
    (cams,) = photo_cams(model, CPU, [PHOTO], (1.0, 0.5))
    (mirrored,) = photo_cams(model, CPU, [PHOTO[:, ::-1]], (1.0, 0.5))
    assert cams.cam_Chw.shape == cams.cam_aux_Chw.shape == (3, 12, 16)  # a quarter, rounded up
    assert cams.memory_Chw.shape == (4, 12, 16)
    assert cams.cam_Chw.min() >= 0
    assert torch.allclose(cams.cam_Chw, mirrored.cam_Chw.flip(-1), atol=1e-4)
    assert torch.allclose(cams.memory_Chw, mirrored.memory_Chw.flip(-1), atol=1e-4)
    assert ((cams.probability_C > 0) & (cams.probability_C < 1)).all()


def test_photos_of_like_size_together_as_one_by_one():
    photos = [PHOTO, PHOTO[::-1, 1:], PHOTO[1:, :-1]]  # 45 x 62, 45 x 61, 44 x 61: all 48 x 64 for the network
    model = a_model_with_a_memory()
    together = photo_cams(model, CPU, photos, (1.0, 0.5))
    for photo, cams in zip(photos, together, strict=True):
        (alone,) = photo_cams(model, CPU, [photo], (1.0, 0.5))
        assert cams.key_grid == alone.key_grid
        for mine, other in zip(cams[:-1], alone[:-1], strict=True):
            assert torch.allclose(mine, other, atol=1e-5)
    affinities = photo_affinities(model, CPU, photos)
    for photo, affinity in zip(photos, affinities, strict=True):
        (alone,) = photo_affinities(model, CPU, [photo])
        assert torch.allclose(affinity, alone, atol=2e-3)
    segmenter = VitSegmenter(Backbone("stcl_tiny"), 2).eval()
    for flip in (True, False):
        for photo, scores in zip(photos, photo_scores(segmenter, CPU, photos, (1.0, 1.5), flip), strict=True):
            assert torch.allclose(scores, photo_scores(segmenter, CPU, [photo], (1.0, 1.5), flip)[0], atol=1e-5)


def test_maps_of_labels_with_the_memory_without_it_and_with_half_of_each():
    model = a_model_with_a_memory()
    (cams,) = photo_cams(model, CPU, [PHOTO], (1.0,))
    plain, whole, half = (label_maps([cams], [(0, 2)], model.memory, memory)[0] for memory in (0.0, 1.0, 0.5))
    both = normalise_cams(cams.cam_Chw[[0, 2]]) + normalise_cams(cams.cam_aux_Chw[[0, 2]])
    assert torch.equal(plain, normalise_cams(both))
    own = cams.memory_Chw[None, [0, 1, 3]]  # background and the two labels
    assert torch.equal(whole, memory_maps(own, model.memory.view(), torch.tensor([[0, 2]]))[0][0])
    assert torch.allclose(half, (plain + whole) / 2)
    assert label_maps([cams], [()], model.memory, 0.5)[0].shape == (0, 12, 16)
    bare = Stcl(Backbone("stcl_tiny"), 3).eval()
    (cams,) = photo_cams(bare, CPU, [PHOTO], (1.0,))
    assert cams.memory_Chw is None
    assert torch.equal(*(label_maps([cams], [(1,)], None, memory)[0] for memory in (0.5, 0.0)))


def test_maps_of_photos_with_no_one_and_three_labels_together_as_one_by_one(monkeypatch):
    model = a_model_with_a_memory()
    photos, labels = [PHOTO, PHOTO[::-1].copy(), 255 - PHOTO], [(), (1,), (0, 1, 2)]
    cams = photo_cams(model, CPU, photos, (1.0,))
    alone = label_maps(cams, labels, model.memory, 0.7)
    slots, asked = inference.gather_slots, []
    monkeypatch.setattr(inference, "gather_slots", lambda cam, k: (asked.append(k.tolist()), slots(cam, k))[1])
    monkeypatch.setattr(inference, "_together", lambda cam, index: cam.cam_Chw.shape)  # as on a GPU
    together = label_maps(cams, labels, model.memory, 0.7)
    assert asked[0] == [[-1, -1, -1], [1, -1, -1], [0, 1, 2]]
    for mine, other in zip(together, alone, strict=True):
        assert mine.shape == other.shape
        assert torch.allclose(mine, other, atol=1e-6)


def test_the_size_in_a_network():
    assert network_size(np.zeros((45, 62, 3), np.uint8), 16) == (48, 64)
    assert network_size(np.zeros((1, 500, 3), np.uint8), 16) == (16, 496)


def test_affinity_of_a_photo_of_any_size():
    model = Stcl(Backbone("stcl_tiny"), 3).eval()
    patch = model.backbone.patch_size
    (similarity,) = photo_affinities(model, CPU, [PHOTO])
    h, w = (2 * round(side / patch) for side in PHOTO.shape[:2])  # seen at twice its size
    assert similarity.shape == (h, w, 25)
    assert np.allclose(similarity[..., 12], 1)  # a patch is most like itself
    assert similarity.std() > 0


def test_scores_are_mean_probabilities_at_the_photos_size():
    model = VitSegmenter(Backbone("stcl_tiny"), 2).eval()
    scales = ((1.0,), (0.5,), (1.0, 0.5))
    one, other, both = (photo_scores(model, CPU, [PHOTO], some, flip=True)[0] for some in scales)
    assert one.shape == (3, 45, 62)
    assert torch.allclose(one.sum(0), torch.ones(45, 62), atol=1e-5)
    assert torch.allclose(both, (one + other) / 2, atol=1e-6)
    (mirrored,) = photo_scores(model, CPU, [PHOTO[:, ::-1]], (1.0,), flip=True)
    assert torch.allclose(one, mirrored.flip(-1), atol=1e-5)


class Brightness(nn.Module):
    """Class 1 where the photo is bright: what a pixel's score says can be told from the photo."""

    multiple = 1

    def normalise(self, photos):
        return photos.float() / 255

    def forward(self, images):
        return torch.cat([0.5 - images[:, :1], images[:, :1] - 0.5], 1)


def test_scores_lie_where_the_photo_is():
    for flip in (False, True):
        (scores,) = photo_scores(Brightness(), CPU, [PHOTO], (1.0,), flip)
        assert np.array_equal(scores.argmax(0), PHOTO[:, :, 0] > 127)


@pytest.mark.parametrize("cached", [100, 2**19])
def test_cams_together_in_bfloat16_are_near_those_of_one_photo_in_float32(monkeypatch, cached):
    """Whatever the tiles of attention; how near is what eight bits of mantissa allow after three blocks."""
    monkeypatch.setattr("stcl_models.attention.CACHED", cached)
    model, photos = a_model_with_a_memory(), [PHOTO, PHOTO[::-1, 1:], PHOTO[1:, :-1]]
    together = photo_cams(model, make_runtime("cpu", "bf16"), photos, (1.0, 0.5, 1.5))
    for photo, cams in zip(photos, together, strict=True):
        (alone,) = photo_cams(model, CPU, [photo], (1.0, 0.5, 1.5))
        for mine, exact in zip(cams[:-1], alone[:-1], strict=True):
            assert not torch.equal(mine, exact)
            assert (mine - exact).norm() < 0.02 * exact.norm()
        maps = [label_maps([some], [(0, 2)], model.memory, 0.7)[0] for some in (cams, alone)]
        assert (maps[0] - maps[1]).abs().mean() < 0.01
