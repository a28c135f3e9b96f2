import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from stcl_models.backbone import Backbone, BackboneError, PatchProjection


@pytest.fixture(scope="module")
def backbone():
    return Backbone("stcl_tiny").eval()


def test_tokens_are_those_of_the_vit_at_two_depths(backbone):
    images = torch.randn(2, 3, 32, 48)
    seen = []
    hook = backbone.vit.blocks[-3].register_forward_hook(lambda block, given, out: seen.append(out))
    tokens = backbone(images)
    hook.remove()
    features = backbone.vit.forward_features(images)
    assert tokens.grid == (4, 6)
    assert torch.allclose(tokens.class_BD, features[:, 0], atol=1e-6)
    assert torch.allclose(tokens.patch_BND, features[:, 1:], atol=1e-6)
    assert torch.allclose(tokens.aux_BND, backbone.vit.norm(seen[0])[:, 1:], atol=1e-6)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_tiny_r_s16_p8_224"])
def test_patch_tokens_fill_the_grid(name):
    backbone = Backbone(name, aux_layer=-1)
    tokens = backbone(torch.zeros(1, 3, 64, 96))
    assert tokens.grid == (64 // backbone.patch_size, 96 // backbone.patch_size)
    assert tokens.patch_BND.shape == (1, tokens.grid[0] * tokens.grid[1], backbone.width)
    assert torch.equal(tokens.patch_BND, tokens.aux_BND)


def test_patches_as_a_matrix_product_are_the_convolution():
    convolution = nn.Conv2d(3, 5, kernel_size=(4, 8), stride=(4, 8))
    product, images = PatchProjection(convolution), torch.randn(2, 3, 12, 24)
    assert torch.allclose(product(images), convolution(images), atol=1e-5)
    assert product.state_dict().keys() == convolution.state_dict().keys()
    overlapping = nn.Conv2d(3, 5, kernel_size=4, stride=2, padding=1)
    assert torch.equal(PatchProjection(overlapping)(images), overlapping(images))
    backbone = Backbone("vit_tiny_patch16_224")
    assert isinstance(backbone.vit.patch_embed.proj, PatchProjection)


def test_a_register_is_no_class_token():
    tokens = Backbone("vit_pwee_patch16_reg1_gap_256").eval()(torch.randn(1, 3, 32, 32))
    assert torch.equal(tokens.class_BD, tokens.patch_BND.mean(1))


def test_tokens_are_normed_also_where_the_model_norms_their_mean(tmp_path):
    backbone = Backbone("vit_pwee_patch16_reg1_gap_256").eval()
    tokens = backbone(torch.randn(1, 3, 32, 32))
    for each in (tokens.patch_BND, tokens.aux_BND):
        assert torch.allclose(each.std(-1, correction=0), torch.ones(()), atol=1e-2)
    model = timm.create_model("vit_pwee_patch16_reg1_gap_256", num_classes=0)
    nn.init.constant_(model.fc_norm.weight, 3)
    save_file(model.state_dict(), tmp_path / "file")
    assert Backbone("vit_pwee_patch16_reg1_gap_256", weights=tmp_path / "file").vit.norm.weight.eq(3).all()


def test_photos_are_normalised_with_the_models_own_figures():
    backbone = Backbone("vit_tiny_patch16_224.augreg_in21k_ft_in1k")  # mean and std of 0.5, not ImageNet's
    black, white = torch.zeros(1, 3, 2, 2).byte(), torch.full((1, 3, 2, 2), 255).byte()
    assert backbone.normalise(black).eq(-1).all()
    assert backbone.normalise(white).eq(1).all()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet18", "is not of timm.s class VisionTransformer"),
        ("swin_tiny_patch4_window7_224", "is not of timm.s class VisionTransformer"),
        ("no_such_vit", "Unknown model"),
        ("vit_tiny_patch16_224.no_such_tag", "Invalid pretrained tag"),
    ],
)
def test_names_that_are_no_backbone(name, reason):
    with pytest.raises(BackboneError, match=f"(?s){name}.*{reason}") as caught:
        Backbone(name)
    assert "\n" not in str(caught.value)


def test_a_network_that_nobody_trained():
    with pytest.raises(BackboneError, match="there are no pretrained weights of stcl_tiny; give --no-pretrained"):
        Backbone("stcl_tiny", pretrained=True)


@pytest.mark.parametrize("aux_layer", [-5, 0, 1])
def test_auxiliary_layers_that_are_not_there(aux_layer):
    with pytest.raises(BackboneError, match=r"the 3 blocks of stcl_tiny: give -3 to -1"):
        Backbone("stcl_tiny", aux_layer=aux_layer)


def test_local_weights_with_or_without_a_head(tmp_path):
    model = timm.create_model("stcl_tiny", num_classes=7)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    backbone = Backbone("stcl_tiny", pretrained=True, weights=tmp_path / "w.safetensors")  # nothing is downloaded
    for name, value in backbone.vit.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


def test_weights_that_do_not_fit(tmp_path):
    file = tmp_path / "w.safetensors"
    state = timm.create_model("stcl_tiny", num_classes=0).state_dict()
    wrong = {
        "lacks norm.bias": {k: v for k, v in state.items() if k != "norm.bias"},
        "has blocks.9.x": state | {"blocks.9.x": torch.zeros(1)},
        "has another shape of pos_embed": state | {"pos_embed": torch.zeros(1, 5, 128)},
    }
    for reason, tensors in wrong.items():
        save_file(tensors, file)
        with pytest.raises(BackboneError, match=f"{file}: these are not weights of stcl_tiny .the file {reason}"):
            Backbone("stcl_tiny", weights=file)
    file.write_bytes(b"no safetensors")
    with pytest.raises(BackboneError, match="not a readable safetensors file"):
        Backbone("stcl_tiny", weights=file)
    with pytest.raises(BackboneError, match="not a readable safetensors file"):
        Backbone("stcl_tiny", weights=tmp_path / "gone")
