"""The heads on the backbone's tokens: projection for contrast, decoder for segmentation."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """MLP, L2 normalisation, weight-normed linear layer: (..., D) -> (..., out), of unit length.

    DINO's head (Caron et al. 2021), as ToCo uses it.
    """

    def __init__(self, width: int, out: int = 1024, hidden: int = 2048, bottleneck: int = 256) -> None:
        super().__init__()
        hidden = min(hidden, 4 * width)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.mlp[::2]:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        # Rows of unit length: the weight norm of DINO with its gain fixed at one.
        self.directions = nn.Parameter(torch.randn(out, bottleneck) / bottleneck**0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        prototypes = F.linear(F.normalize(self.mlp(tokens), dim=-1), F.normalize(self.directions, dim=-1))
        return F.normalize(prototypes, dim=-1)  # so that a dot product of two is a cosine


class TeacherHead(nn.Module):
    """Exponential moving average of a student head; it has no gradient and is part of the checkpoint."""

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.head = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def update(self, student: nn.Module, momentum: float) -> None:
        """teacher <- momentum * teacher + (1 - momentum) * student."""
        for own, new in zip(self.head.parameters(), student.parameters(), strict=True):
            own.lerp_(new, 1 - momentum)

    @torch.no_grad()
    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(tokens)


class LargeFov(nn.Module):
    """Decoder of DeepLab-LargeFOV (Chen et al. 2015), two dilated 3x3 layers, as in ToCo: (B,D,h,w) -> (B,out,h,w)."""

    def __init__(self, width: int, out: int, hidden: int = 512, dilation: int = 5) -> None:
        super().__init__()
        hidden = min(hidden, 2 * width)
        self.layers = nn.Sequential(
            nn.Conv2d(width, hidden, 3, padding=dilation, dilation=dilation),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, out, 1),
        )

    def forward(self, features_BDhw: Tensor) -> Tensor:
        return self.layers(features_BDhw)
