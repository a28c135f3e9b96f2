"""`stcl_tiny`: a small Vision Transformer that learns from scratch on a CPU. Importing this module makes timm know it.

timm's VisionTransformer with a convolutional stem in place of the patch projection ("Early Convolutions Help
Transformers See Better", Xiao et al., NeurIPS 2021): 3x3 convolutions, three of them of stride 2. They see textures
after some hundred steps, where a plain patch projection needs a pretraining. The sizes are ours.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from timm.layers import PatchEmbed
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

PATCH_SIZE = 8  # pixels: three convolutions of stride 2


class ConvStem(PatchEmbed):
    """Photos (B, 3, H, W) -> tokens, one for PATCH_SIZE x PATCH_SIZE pixels, in the layouts of timm's PatchEmbed."""

    def __init__(self, *, in_chans: int = 3, embed_dim: int, **kwargs: Any) -> None:
        super().__init__(in_chans=in_chans, embed_dim=embed_dim, **kwargs)
        layers: list[nn.Module] = []
        widths = (in_chans, embed_dim // 4, embed_dim // 2, embed_dim // 2, embed_dim, embed_dim)
        for (width_in, width_out), stride in zip(pairwise(widths), (2, 2, 1, 2, 1), strict=True):
            layers += [
                nn.Conv2d(width_in, width_out, kernel_size=3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width_out),
                nn.ReLU(inplace=True),
            ]
        self.proj = nn.Sequential(*layers, nn.Conv2d(embed_dim, embed_dim, kernel_size=1))


default_cfgs = generate_default_cfgs(
    {"stcl_tiny": {"input_size": (3, 96, 96), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}}
)


@register_model
def stcl_tiny(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """3 blocks of width 128 with 4 heads, 8-pixel patches. There are no pretrained weights."""
    sizes = {"img_size": 96, "patch_size": PATCH_SIZE, "embed_dim": 128, "depth": 3, "num_heads": 4, "mlp_ratio": 2}
    return build_model_with_cfg(VisionTransformer, "stcl_tiny", pretrained, embed_layer=ConvStem, **(sizes | kwargs))
