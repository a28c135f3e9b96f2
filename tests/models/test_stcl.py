import pytest
import torch

from stcl_models.backbone import Backbone
from stcl_models.stcl import Stcl, rescale, resize, to_map


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Stcl(Backbone("stcl_tiny"), 3, memory={"slots": 4}, segmentation=True).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 48, 32, generator=torch.Generator().manual_seed(0))


def test_heads_in_their_shapes(model, images):
    tokens = model.backbone(images)
    logits, logits_aux = model.logits(tokens)
    cam, cam_aux = model.activations(tokens)
    assert logits.shape == logits_aux.shape == (2, 3)
    assert cam.shape == cam_aux.shape == (2, 3, 6, 4)
    assert model.segment(tokens).shape == (2, 4, 6, 4)


def test_the_classifier_reads_the_largest_of_each_feature_and_its_weights_give_the_map(model, images):
    tokens = model.backbone(images)
    for read, weight, score, cam in zip(
        (tokens.patch_BND, tokens.aux_BND),
        (model.classifier.weight, model.classifier_aux.weight),
        model.logits(tokens),
        model.activations(tokens),
        strict=True,
    ):
        assert torch.allclose(score, torch.einsum("bd,cd->bc", read.amax(1), weight), atol=1e-5)
        assert torch.allclose(cam[1, :, 2, 3], weight @ read[1, 2 * 4 + 3], atol=1e-5)


def test_the_mean_of_a_share_of_the_tokens_can_stand_in_for_the_largest(model, images):
    shared = Stcl(model.backbone, 3, top_share=0.25).eval()
    tokens = shared.backbone(images)
    scores = [sorted(cam.flatten().tolist())[-6:] for cam in shared.activations(tokens)[0].flatten(0, 1)]
    assert torch.allclose(shared.logits(tokens)[0].flatten(), torch.tensor(scores).mean(1), atol=1e-5)


def test_cam_pass_is_the_mean_over_scales_of_folded_maps(model, images):
    def folded(scaled):
        plain, mirror = (model.activations(model.backbone(x)) for x in (scaled, scaled.flip(-1)))
        return [resize(torch.maximum(a, b.flip(-1)).relu(), (20, 15)) for a, b in zip(plain, mirror, strict=True)]

    result = model.cam_pass(images, (1.0, 0.5), (20, 15))
    scales = [folded(images), folded(resize(images, (24, 16)))]
    assert torch.allclose(result.cam_BChw, (scales[0][0] + scales[1][0]) / 2, atol=1e-5)
    assert torch.allclose(result.cam_aux_BChw, (scales[0][1] + scales[1][1]) / 2, atol=1e-5)
    assert torch.allclose(result.mirror_BD, model.backbone(images.flip(-1)).class_BD, atol=1e-5)
    views = [model.logits(model.backbone(x))[0] for s in (images, resize(images, (24, 16))) for x in (s, s.flip(-1))]
    assert torch.allclose(result.logits_BC, torch.stack(views).mean(0), atol=1e-5)


def test_a_plain_pass_that_was_made_anyway_saves_one_and_changes_nothing(model, images):
    seen = []
    hook = model.backbone.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    whole = model.cam_pass(images, (1.0, 1.5), (6, 4))
    plain = model.cam_pass(images, (1.0, 1.5), (6, 4), model.backbone(images))
    hook.remove()
    assert seen == [4, 4, 2, 2, 4]
    assert whole.key_grid == plain.key_grid == (9, 6)
    pairs = zip(whole, plain, strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs if isinstance(a, torch.Tensor))


def test_what_the_memory_says_is_the_mean_over_the_mirror_pair_at_the_largest_scale(model, images):
    discriminants = torch.randn(2, 5, model.backbone.width)

    def score(view):
        tokens = model.backbone(view)
        return to_map(tokens.key_BND @ discriminants.transpose(1, 2), tokens.grid)

    large = resize(images, (72, 48))
    expected = resize((score(large) + score(large.flip(-1)).flip(-1)) / 2, (12, 8))
    for scales in ((1.0, 1.5), (1.5, 0.5)):
        result = model.cam_pass(images, scales, (12, 8), discriminants_BRD=discriminants)
        torch.testing.assert_close(result.memory_BRhw, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(result.key_BNE, model.backbone(large).key_BND, atol=1e-5, rtol=1e-4)
        assert result.key_grid == (9, 6)
    assert model.cam_pass(images, (1.0,), (6, 4)).memory_BRhw is None


def test_maps_of_a_mirror_image_are_mirrored(model, images):
    maps, mirrored = (model.cam_pass(x, (1.0, 0.5), (12, 8)) for x in (images, images.flip(-1)))
    assert torch.allclose(maps.cam_BChw, mirrored.cam_BChw.flip(-1), atol=1e-5)
    assert torch.allclose(maps.logits_BC, mirrored.logits_BC, atol=1e-5)


def test_tokens_go_row_by_row():
    tokens = torch.arange(6).view(1, 6, 1)
    assert to_map(tokens, (2, 3)).tolist() == [[[[0, 1, 2], [3, 4, 5]]]]


@pytest.mark.parametrize(("scale", "size"), [(1.0, (48, 32)), (0.5, (24, 16)), (1.5, (72, 48)), (0.01, (8, 8))])
def test_sides_become_multiples_of_the_patch(scale, size):
    assert rescale(torch.zeros(1, 3, 50, 31), scale, 8).shape[-2:] == size


def test_top_share_averages_the_strongest_activations():
    torch.manual_seed(0)
    network = Stcl(Backbone("stcl_tiny"), 3, top_share=0.25).eval().requires_grad_(False)
    tokens = network.backbone(torch.randn(2, 3, 32, 32))
    activations = tokens.patch_BND.double() @ network.classifier.weight.double().T
    expected = activations.sort(dim=1, descending=True).values[:, :4].mean(1)  # a quarter of 16 tokens
    torch.testing.assert_close(network.logits(tokens)[0].double(), expected, rtol=1e-5, atol=1e-6)


def test_what_the_memory_says_keeps_its_digits_under_bf16(model, images, monkeypatch):
    """In bf16 classes that lie close together would be one number."""
    kinds = []
    monkeypatch.setattr(
        "stcl_models.stcl.to_map", lambda tokens, grid: kinds.append(tokens.dtype) or to_map(tokens, grid)
    )
    discriminants = torch.randn(2, 5, model.backbone.width)
    with torch.autocast("cpu", torch.bfloat16):
        model.cam_pass(images, (1.0,), (6, 4), discriminants_BRD=discriminants)
    assert kinds[-1] == torch.float32
