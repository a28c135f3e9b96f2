from dataclasses import replace

import pytest
import torch
from torch import nn

from stcl_cli.config import SegtrainConfig, TrainConfig
from stcl_cli.flops import cam_gflop, counted, predict_gflop, segtrain_gflop, train_gflop
from stcl_cli.networks import build_segmenter, build_stcl

CLASSES = 20
SCALES = (1.0, 0.5, 1.5)
TRAIN = TrainConfig(images="", labels="", output="", backbone="deit_tiny_patch16_224", pretrained=False)
TOCO = replace(TRAIN, w_class=0.5, w_seg=0.1)
SIZES = {"deit_tiny_patch16_224": (192, 12), "vit_base_patch16_224": (768, 12)}  # width, depth


def vit(width, depth, side, patch=16):
    """GFLOP of a pass, by hand: the same figure another way."""
    patches = (side // patch) ** 2
    tokens = patches + 1
    projections = 2 * tokens * width * (3 + 1 + 4 + 4) * width  # q, k, v; out; both layers of the MLP
    attention = 2 * 2 * tokens**2 * width
    return (2 * patches * 3 * patch**2 * width + depth * (projections + attention)) / 1e9


def classifiers(width, side, tokens=None):
    """On every token, or on the pooled one."""
    return 2 * 2 * (tokens or (side // 16) ** 2) * width * CLASSES / 1e9


def decoder(width, side):
    hidden = min(512, 2 * width)
    return 2 * (side // 16) ** 2 * hidden * (9 * width + 9 * hidden + CLASSES + 1) / 1e9


def head(width):
    """Of class token contrast."""
    hidden = min(2048, 4 * width)
    return 2 * (width * hidden + hidden**2 + hidden * 256 + 256 * 1024) / 1e9


def export(width, depth):
    views = (
        vit(width, depth, side) + classifiers(width, side) + classifiers(width, side, 1) for side in (448, 224, 672)
    )
    return 2 * sum(views)


@pytest.fixture(params=SIZES)
def network(request):
    with torch.device("meta"):  # no values: the large one too is made at once
        model = build_stcl(replace(TOCO, backbone=request.param), CLASSES)
    return model, *SIZES[request.param]


def test_export_needs_what_is_counted_by_hand(network):
    model, *sizes = network
    assert cam_gflop(model, (448, 448), SCALES) == pytest.approx(export(*sizes), rel=1e-3)


def test_training_needs_what_is_counted_by_hand(network):
    model, width, depth = network
    crop = vit(width, depth, 448)
    forward = crop + classifiers(width, 448, 1)
    plain = 3 * forward + export(width, depth) - crop
    assert train_gflop(model, TRAIN, 6) == pytest.approx(plain, rel=1e-3)
    local = 8 * (vit(width, depth, 96) + head(width))
    everything = plain + 3 * (decoder(width, 448) + local) + 2 * head(width)
    assert train_gflop(model, TOCO, 6) == pytest.approx(everything, rel=1e-3)
    only_labels = replace(TRAIN, w_patch=0.0)
    model.memory = None
    assert train_gflop(model, only_labels, 6) == pytest.approx(3 * forward, rel=1e-3)
    other_scales = replace(TRAIN, cam_scales=(0.5,))
    assert train_gflop(model, other_scales, 6) == pytest.approx(
        3 * forward + 2 * (vit(width, depth, 224) + classifiers(width, 224)), rel=1e-3
    )


def test_the_figures_of_vit_b_are_those_of_its_paper():
    # Dosovitskiy et al. 2021 and timm: 17.6 G multiply-adds at 224 pixels, attention included
    assert vit(768, 12, 224) / 2 == pytest.approx(17.6, rel=0.01)


def test_the_second_stage(network):
    model, width, depth = network
    segmenter = build_segmenter_without_values(model)
    once = vit(width, depth, 448) + decoder(width, 448)
    assert segtrain_gflop(segmenter, 448) == pytest.approx(3 * once, rel=1e-3)
    assert predict_gflop(segmenter, (448, 448), (1.0,), True) == pytest.approx(2 * once, rel=1e-3)
    assert predict_gflop(segmenter, (448, 448), (1.0, 1.0), False) == pytest.approx(2 * once, rel=1e-3)


def build_segmenter_without_values(model):
    name = next(name for name, (width, _) in SIZES.items() if width == model.backbone.width)
    config = SegtrainConfig(images="", masks="", output="", encoder=name, pretrained=False)
    with torch.device("meta"):
        return build_segmenter(config, CLASSES)


def test_a_product_and_the_model_stays_as_it_was():
    layer = nn.Linear(10, 20)
    assert counted(lambda: layer(torch.zeros(5, 10))) == pytest.approx(2 * 5 * 10 * 20 / 1e9)
    model = build_stcl(replace(TRAIN, backbone="stcl_tiny"), 2).train()
    cam_gflop(model, (32, 32), (1.0,))
    assert model.training
    assert next(model.parameters()).device.type == "cpu"
