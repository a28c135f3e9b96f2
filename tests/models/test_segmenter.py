import pytest
import timm
import torch
from safetensors.torch import save_file

from stcl_models.backbone import Backbone, BackboneError
from stcl_models.segmenter import SmpSegmenter, VitSegmenter

ENCODER = "mobilenetv3_small_050"


def test_vit_scores_every_class_and_background_on_the_patch_grid():
    model = VitSegmenter(Backbone("stcl_tiny"), 3)
    images = model.normalise(torch.randint(0, 256, (2, 3, 32, 48)).byte())
    scores = model(images)
    assert scores.shape == (2, 4, 32 // model.multiple, 48 // model.multiple)
    scores.sum().backward()
    assert model.encoder.vit.patch_embed.proj[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("arch", ["fpn", "deeplabv3plus", "linknet"])
def test_smp_scores_every_pixel(arch):
    model = SmpSegmenter(arch, ENCODER, 3)
    images = model.normalise(torch.randint(0, 256, (2, 3, 64, 96)).byte())
    assert model(images).shape == (2, 4, 64, 96)
    assert model.mean.flatten().tolist() == pytest.approx([123.675, 116.28, 103.53])  # the encoder's own


def test_smp_encoders_take_local_weights_of_the_whole_classifier(tmp_path):
    file = tmp_path / "w.safetensors"
    state = timm.create_model(ENCODER).state_dict()
    save_file(state, file)
    encoder = SmpSegmenter("fpn", ENCODER, 3, weights=file).encoder.model
    loaded = encoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())
    with pytest.raises(BackboneError, match=f"{file}: these are not weights of resnet18"):
        SmpSegmenter("fpn", "resnet18", 3, weights=file)


@pytest.mark.parametrize(
    ("arch", "encoder"), [("dpt", "vit_tiny_patch16_224"), ("dpt", "resnet18"), ("pan", "resnet18")]
)
def test_they_take_photos_of_any_size(arch, encoder):
    model = SmpSegmenter(arch, encoder, 3).eval()
    with torch.inference_mode():
        for size in ((224, 224), (128, 160), (96, 512), (32, 64)):
            assert model(torch.zeros(1, 3, *size)).shape == (1, 4, *size)


def test_dpt_needs_patches_that_divide_the_size():
    with pytest.raises(BackboneError, match="dpt cannot be made with 'vit_small_patch14_dinov2': its patches do not"):
        SmpSegmenter("dpt", "vit_small_patch14_dinov2", 3)


@pytest.mark.parametrize("encoder", ["no_such_net", "vit_tiny_patch16_224"])
def test_encoders_that_do_not_go_with_the_architecture(encoder):
    with pytest.raises(BackboneError, match=f"unet cannot be made with the timm encoder '{encoder}'") as caught:
        SmpSegmenter("unet", encoder, 3)
    assert "\n" not in str(caught.value)
