"""Second-stage segmentation networks: a ViT with a light decoder, or any architecture of segmentation-models-pytorch.

Both take normalised images whose sides are multiples of `multiple` and give scores of all classes, background first.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from stcl_models.backbone import Backbone, BackboneError, check_name, first_line, load_backbone_weights
from stcl_models.heads import LargeFov
from stcl_models.stcl import resize, to_map


class VitSegmenter(nn.Module):
    """Patch tokens of a ViT -> LargeFOV decoder. Scores (B, classes + 1, H / patch, W / patch)."""

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.encoder = backbone
        self.decoder = LargeFov(backbone.width, classes + 1)
        self.multiple = backbone.patch_size

    @property
    def mean(self) -> Tensor:
        return self.encoder.mean

    def normalise(self, photos_B3HW: Tensor) -> Tensor:
        """uint8 RGB -> what the encoder was trained on."""
        return self.encoder.normalise(photos_B3HW)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        tokens = self.encoder(images_B3HW)
        return self.decoder(to_map(tokens.patch_BND, tokens.grid))


class SmpSegmenter(nn.Module):
    """segmentation-models-pytorch with a timm encoder. Scores (B, classes + 1, H, W). Raises BackboneError."""

    multiple = 32

    def __init__(
        self, arch: str, encoder: str, classes: int, *, pretrained: bool = False, weights: Path | None = None
    ) -> None:
        super().__init__()
        check_name(encoder)
        own = {} if weights is None else {"pretrained_cfg_overlay": {"file": str(weights)}}
        # pan pools a map at a sixteenth three times.
        self.least = 128 if arch == "pan" else self.multiple
        try:
            if arch == "dpt":
                own |= _any_size(encoder)
            if weights is not None:  # timm's loading of a part of a network, below, lets files of other networks pass
                load_backbone_weights(timm.create_model(encoder, num_classes=0), encoder, weights)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Encoder does not have prefix tokens")  # dpt's, which needs none
                self.net = smp.create_model(
                    arch,
                    encoder_name=f"tu-{encoder}",
                    encoder_weights=True if pretrained or weights is not None else None,
                    classes=classes + 1,
                    **own,
                )
            config = timm.models.get_pretrained_cfg(encoder)
        except BackboneError:
            raise
        except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise BackboneError(
                f"{arch} cannot be made with the timm encoder {encoder!r}: {first_line(error)}"
            ) from error
        except OSError as error:
            raise BackboneError(
                f"the pretrained weights of {encoder} could not be downloaded ({first_line(error)}); "
                "give a local file with --weights, or --no-pretrained"
            ) from error
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1) * 255, persistent=False)

    @property
    def encoder(self) -> nn.Module:
        return self.net.encoder

    def normalise(self, photos_B3HW: Tensor) -> Tensor:
        """uint8 RGB -> what the encoder was trained on."""
        return (photos_B3HW.float() - self.mean) / self.std

    def forward(self, images_B3HW: Tensor) -> Tensor:
        size = images_B3HW.shape[-2:]
        if min(size) >= self.least:
            return self.net(images_B3HW)
        return resize(self.net(resize(images_B3HW, [max(side, self.least) for side in size])), size)


def _any_size(encoder: str) -> dict[str, bool]:
    """What timm has to be told so that a ViT takes images of any size. BackboneError if its patches do not fit."""
    model = timm.create_model(encoder, num_classes=0)
    if not hasattr(model, "dynamic_img_size"):
        return {}
    if SmpSegmenter.multiple % model.patch_embed.patch_size[0]:
        raise BackboneError(
            f"dpt cannot be made with {encoder!r}: its patches do not divide {SmpSegmenter.multiple} pixels; "
            "take one with patches of 8 or 16"
        )
    return {"dynamic_img_size": True}
