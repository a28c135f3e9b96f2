"""Any VisionTransformer of timm, read at two depths.

Shapes: B images, H x W pixels, h x w patches, N = h * w patch tokens, D token width.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import stcl_models.tiny  # noqa: F401  (makes timm know stcl_tiny)
from stcl_models.attention import take_over

NO_VIT = "{} is not of timm's class VisionTransformer; take another ViT (EVA, DINOv3, Swin and relpos are not)"
HEADS = ("head.", "head_dist.", "fc_norm.", "fc.", "classifier.")  # left out when weights are loaded


class BackboneError(ValueError):
    """A backbone that timm does not have, that is no ViT, or whose weights do not fit; the message says which."""


class Tokens(NamedTuple):
    """What one pass over the image gives."""

    patch_BND: Tensor  # patch tokens of the last block, normed
    aux_BND: Tensor  # patch tokens of the auxiliary block, normed
    key_BND: Tensor  # patch tokens of the memory's block, of unit length
    class_BD: Tensor  # class token of the last block, normed
    grid: tuple[int, int]  # (h, w), h * w = N


class Backbone(nn.Module):
    """A timm ViT without its head. `aux_layer` counts blocks from the end (ToCo: the third from the end, -3).

    `memory_layer`, counted likewise, is the block whose tokens the memory bank knows objects by; None takes the one at
    two thirds of the depth (ours: later blocks know classes better, but not where an object ends).

    Images are normalised with the model's own mean and std; sides must be multiples of `patch_size`.
    Raises BackboneError.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = False,
        weights: Path | None = None,
        aux_layer: int = -3,
        memory_layer: int | None = None,
    ) -> None:
        super().__init__()
        check_name(name)
        try:
            self.vit = timm.create_model(
                name, pretrained=pretrained and weights is None, num_classes=0, dynamic_img_size=True
            )
        except TypeError as error:  # the model's class takes no dynamic_img_size
            raise BackboneError(NO_VIT.format(name)) from error
        except RuntimeError as error:  # timm: unknown model, or no pretrained weights for it
            if "No pretrained weights" in str(error):
                raise BackboneError(
                    f"there are no pretrained weights of {name}; give --no-pretrained, or a local file with --weights"
                ) from error
            cure = "timm.list_models(module='vision_transformer') has names, stcl_tiny is ours"
            raise BackboneError(f"timm cannot make the backbone {name!r}: {first_line(error)}; {cure}") from error
        except OSError as error:  # hub not reachable
            raise BackboneError(
                f"the pretrained weights of {name} could not be downloaded ({first_line(error)}); "
                "give a local file with --weights, or --no-pretrained"
            ) from error
        if not isinstance(self.vit, VisionTransformer):
            raise BackboneError(NO_VIT.format(name))
        depth = len(self.vit.blocks)
        for option, layer in (("aux_layer", aux_layer), ("memory_layer", memory_layer)):
            if layer is not None and not -depth <= layer < 0:
                raise BackboneError(f"{option} {layer} is outside the {depth} blocks of {name}: give -{depth} to -1")
        self.aux_index = depth + aux_layer
        self.memory_index = round(depth * 2 / 3) - 1 if memory_layer is None else depth + memory_layer
        self._cpu_hooks = take_over(self.vit)
        if isinstance(self.vit.patch_embed.proj, nn.Conv2d):  # a hybrid ViT's may be something else
            self.vit.patch_embed.proj = PatchProjection(self.vit.patch_embed.proj)
        self.width: int = self.vit.embed_dim
        self.patch_size: int = self.vit.patch_embed.feat_ratio()
        config = self.vit.pretrained_cfg
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1) * 255, persistent=False)
        if weights is not None:
            load_backbone_weights(self.vit, name, weights)
        if isinstance(self.vit.norm, nn.Identity):  # timm's ViTs that norm the mean of the tokens, in place of each
            self.vit.norm, self.vit.fc_norm = self.vit.fc_norm, self.vit.norm

    def normalise(self, photos_B3HW: Tensor) -> Tensor:
        """uint8 RGB (0..255) -> what the backbone was trained on."""
        return (photos_B3HW.float() - self.mean) / self.std

    def compile_blocks(self) -> None:
        """Have PyTorch write kernels for the blocks, for a GPU; one set for images of many sizes."""
        for handle in self._cpu_hooks:
            handle.remove()
        for block in self.vit.blocks:
            block.compile(dynamic=True)

    def grid(self, images_B3HW: Tensor) -> tuple[int, int]:
        """Patches of an image, (h, w)."""
        return images_B3HW.shape[-2] // self.patch_size, images_B3HW.shape[-1] // self.patch_size

    def forward(self, images_B3HW: Tensor) -> Tokens:
        indices = sorted({self.aux_index, self.memory_index})
        last, middle = self.vit.forward_intermediates(images_B3HW, indices=indices, norm=True, output_fmt="NLC")
        prefix = self.vit.num_prefix_tokens
        patch = last[:, prefix:]
        # A ViT without a class token stands in with the mean of its patch tokens.
        class_token = last[:, 0] if self.vit.has_class_token else patch.mean(1)
        aux, key = (middle[indices.index(index)] for index in (self.aux_index, self.memory_index))
        return Tokens(patch, aux, F.normalize(key, dim=-1), class_token, self.grid(images_B3HW))


class PatchProjection(nn.Conv2d):
    """A convolution over patches that do not overlap, as a matrix product; it takes over the convolution's weights.

    cuDNN has no good kernel for it: in bfloat16 it took 8 % of a CAM export on an H100.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(convolution.__dict__)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        height, width = self.kernel_size
        if self.stride != self.kernel_size or self.padding != (0, 0) or self.groups > 1 or self.dilation != (1, 1):
            return super().forward(images_B3HW)
        patches = images_B3HW.unflatten(2, (-1, height)).unflatten(4, (-1, width)).permute(0, 2, 4, 1, 3, 5)
        return F.linear(patches.flatten(3), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def check_name(name: str) -> None:
    """BackboneError for what timm would take for the address of a network: a checkpoint's word fetches nothing."""
    if not name or ":" in name or "/" in name:
        raise BackboneError(f"{name!r} is no name of a timm model; addresses of networks are not followed")


def load_backbone_weights(vit: nn.Module, name: str, path: Path) -> None:
    """Strictly load a local safetensors file with timm's names; a classification head in the file is left out."""
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BackboneError(
            f"{path}: not a readable safetensors file ({first_line(error)}); give another --weights"
        ) from error
    own = vit.state_dict()
    state = {k: v for k, v in state.items() if k in own or not k.startswith(HEADS)}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    unlike = [k for k in own.keys() & state.keys() if own[k].shape != state[k].shape]
    if missing or extra or unlike:
        what = (
            f"lacks {missing[0]}" if missing else f"has {extra[0]}" if extra else f"has another shape of {min(unlike)}"
        )
        raise BackboneError(
            f"{path}: these are not weights of {name} (the file {what}); name their model with --backbone or --encoder"
        )
    vit.load_state_dict(state)


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [error.__class__.__name__])[0]
