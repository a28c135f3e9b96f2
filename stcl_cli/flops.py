"""What a photo needs: floating point operations, counted on tensors that have shapes and no values.

Matrix products, convolutions and attention count, two operations a multiply-add; a backward pass is twice its forward
pass. What is needed is what the method asks for, each pass over an image once: what a program computes twice, or throws
away, counts once or not at all. All figures are GFLOP a photo.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from stcl_cli.config import TrainConfig
from stcl_models.stcl import Stcl, rescale


def counted(work: Callable[[], object]) -> float:
    """GFLOP that `work` computes."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        work()
    return counter.get_total_flops() / 1e9


def cam_gflop(model: Stcl, size: tuple[int, int], scales: tuple[float, ...]) -> float:
    """The multi-scale pass over a photo of this size."""
    model, image = _without_values(model), _image(size)
    return counted(lambda: model.cam_pass(image, scales, size))


def train_gflop(model: Stcl, config: TrainConfig, window: int) -> float:
    """An iteration of the last phase, in which every loss with a weight is on; crops of `window` tokens.

    The crop goes through the network once, with gradient. The CAM pass brings the other views without one; class token
    contrast brings the local crops, with gradient. The losses themselves are left out: they are under 1 %.
    """
    model, image = _without_values(model), _image((config.crop_size, config.crop_size))
    backbone, patch = model.backbone, model.backbone.patch_size
    plain = counted(lambda: backbone(image))
    with_gradient = counted(lambda: _heads(model, image, bool(config.w_seg)))
    total = 3 * with_gradient
    if config.w_patch or config.w_class or config.w_seg or model.memory is not None:
        total += counted(lambda: model.cam_pass(image, config.cam_scales, (1, 1)))
        total -= plain if 1.0 in config.cam_scales else 0
    if config.w_class:
        crops = _image((window * patch, window * patch)).expand(config.local_crops, -1, -1, -1)
        total += 3 * counted(lambda: model.student(backbone(crops).class_BD))
        total += counted(lambda: model.teacher(torch.zeros(2, backbone.width, device="meta")))
    return total


def _heads(model: Stcl, image: Tensor, segment: bool) -> None:
    tokens = model.backbone(image)
    model.logits(tokens)
    if segment:
        model.segment(tokens)


def predict_gflop(model: nn.Module, size: tuple[int, int], scales: tuple[float, ...], flip: bool) -> float:
    """The passes of a segmentation model over a photo of this size."""
    model, image = _without_values(model), _image(size)
    views = 2 if flip else 1
    return views * sum(counted(lambda s=scale: model(rescale(image, s, model.multiple))) for scale in scales)


def segtrain_gflop(model: nn.Module, crop_size: int) -> float:
    """An iteration of the second stage."""
    model, image = _without_values(model), _image((crop_size, crop_size))
    return 3 * counted(lambda: model(image))


def _without_values(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to("meta").eval()


def _image(size: tuple[int, int]) -> Tensor:
    return torch.zeros(1, 3, *size, device="meta")
