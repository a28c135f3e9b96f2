import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

import stcl_models.tiny  # noqa: F401  (registers stcl_tiny)


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return timm.create_model("stcl_tiny", num_classes=0, dynamic_img_size=True).eval()


def test_is_a_timm_vit_with_a_class_token_and_a_patch_token_for_every_eight_pixels(vit):
    assert isinstance(vit, VisionTransformer)
    assert vit.num_prefix_tokens == 1
    last, (aux,) = vit.forward_intermediates(torch.rand(2, 3, 64, 40), indices=[1], norm=True, output_fmt="NLC")
    assert last.shape == (2, 1 + 8 * 5, 128)
    assert aux.shape == (2, 8 * 5, 128)


def test_tokens_lie_where_their_pixels_are(vit):
    """A spot in the photo moves the stem's tokens around its place, and no others."""
    plain = torch.zeros(1, 3, 64, 64)
    spotted = plain.clone()
    spotted[..., 42:46, 18:22] = 1
    with torch.no_grad():
        moved_hw = (vit.patch_embed(spotted) - vit.patch_embed(plain)).abs().amax(-1)[0]
    assert divmod(moved_hw.argmax().item(), 8) == (5, 2)
    assert not moved_hw[:3].any()
    assert not moved_hw[:, 6:].any()


def test_says_how_its_input_is_normalised(vit):
    config = timm.data.resolve_model_data_config(vit)
    assert config["input_size"] == (3, 96, 96)
    assert config["mean"] == (0.5, 0.5, 0.5)
    assert config["std"] == (0.25, 0.25, 0.25)


def test_sizes_can_be_changed():
    wide = timm.create_model("stcl_tiny", num_classes=3, embed_dim=64, depth=1, img_size=32)
    assert wide(torch.rand(2, 3, 32, 32)).shape == (2, 3)


def test_promises_no_pretrained_weights():
    with pytest.raises(RuntimeError, match="pretrained"):
        timm.create_model("stcl_tiny", pretrained=True)
