"""The STCL classification network: a ViT with two classifiers, contrast heads and a segmentation branch.

Shapes: B images, N = h * w patch tokens, D token width, C foreground classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stcl_models.backbone import Backbone, Tokens
from stcl_models.heads import LargeFov, ProjectionHead, TeacherHead
from stcl_models.memory_bank import MemoryBank


class CamPass(NamedTuple):
    """What a multi-scale pass gives; CAMs are not normalised."""

    cam_BChw: Tensor  # from the last block
    cam_aux_BChw: Tensor  # from the auxiliary block
    logits_BC: Tensor  # class scores, mean over all views
    mirror_BD: Tensor  # class token of the mirror image at the first scale
    memory_BRhw: Tensor | None  # products of patch tokens and the discriminants asked for; None if none were
    key_BNE: Tensor  # the memory's tokens of the plain view at the largest scale
    key_grid: tuple[int, int]


class Stcl(nn.Module):
    """Classification from patch tokens by global max pooling and a bias-free linear layer (ToCo, Ru et al. 2023, 3.1).

    `classifier` reads the last block and `classifier_aux` the auxiliary one; the same weights applied to every patch
    token give the class activation maps. With `contrast` a `student` and a `teacher` project class tokens for class
    token contrast, with `segmentation` a `decoder` is the segmentation branch (C + 1 scores, background first), and
    `memory` is the memory bank, made with the arguments of that name; None: none. `threshold` (C) is the probability
    from which a class counts as shown where no labels say so, 0 while it is not known.

    With `top_share` a class score is the mean of that share of the tokens, the ones that activate the class most, in
    place of max pooling (ours): many tokens get a gradient, so a ViT learns from scratch.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int,
        top_share: float = 0.0,
        memory: dict[str, Any] | None = None,
        contrast: bool = False,
        segmentation: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.top_share = backbone, top_share
        self.classifier = nn.Linear(backbone.width, classes, bias=False)
        self.classifier_aux = nn.Linear(backbone.width, classes, bias=False)
        for layer in (self.classifier, self.classifier_aux):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        self.student = ProjectionHead(backbone.width) if contrast else None
        self.teacher = TeacherHead(self.student) if contrast else None
        self.decoder = LargeFov(backbone.width, classes + 1) if segmentation else None
        self.memory = MemoryBank(classes + 1, backbone.width, **memory) if memory else None
        self.register_buffer("threshold", torch.zeros(classes))

    def logits(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Class scores (B,C) of the last and of the auxiliary block."""
        return self._pooled(self.classifier, tokens.patch_BND), self._pooled(self.classifier_aux, tokens.aux_BND)

    def _pooled(self, classifier: nn.Linear, tokens_BND: Tensor) -> Tensor:
        if not self.top_share:
            return classifier(tokens_BND.amax(1))
        count = max(1, round(self.top_share * tokens_BND.shape[1]))
        return classifier(tokens_BND).topk(count, dim=1).values.mean(1)

    def activations(self, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Class activation maps before ReLU, (B,C,h,w) of the last and of the auxiliary block."""
        return (
            to_map(self.classifier(tokens.patch_BND), tokens.grid),
            to_map(self.classifier_aux(tokens.aux_BND), tokens.grid),
        )

    def segment(self, tokens: Tokens) -> Tensor:
        """Scores (B,C+1,h,w) of the segmentation branch."""
        return self.decoder(to_map(tokens.patch_BND, tokens.grid))

    @torch.no_grad()
    def cam_pass(
        self,
        images_B3HW: Tensor,
        scales: tuple[float, ...],
        size: tuple[int, int],
        plain: Tokens | None = None,
        discriminants_BRD: Tensor | None = None,
    ) -> CamPass:
        """Multi-scale CAMs with mirror images (ToCo): max over the mirror pair, ReLU, mean over scales, at `size`.

        `plain` may hand over the tokens of a pass at scale 1 that was made anyway; then only its mirror image is
        computed. `discriminants` are those of the memory that each image's patches are multiplied with, at the largest
        scale, where the memory's own tokens come from (mean over the mirror pair: ours).
        """
        cams, cams_aux, scores, class_tokens = [], [], [], []
        memory = key = None
        key_grid = (0, 0)
        for scale in scales:
            scaled = rescale(images_B3HW, scale, self.backbone.patch_size)
            views = [scaled.flip(-1)] if plain and scale == 1 else [scaled, scaled.flip(-1)]
            tokens = self.backbone(torch.cat(views))
            if len(views) == 1:
                tokens = Tokens(*(torch.cat(pair) for pair in zip(plain[:4], tokens[:4], strict=True)), tokens.grid)
            cam, cam_aux = (_fold_mirror(activation) for activation in self.activations(tokens))
            cams.append(resize(cam, size))
            cams_aux.append(resize(cam_aux, size))
            scores.append(self.logits(tokens)[0].float().unflatten(0, (2, -1)).mean(0))
            class_tokens.append(tokens.class_BD.unflatten(0, (2, -1))[1])
            if scale == max(scales):
                key, key_grid = tokens.key_BND.chunk(2)[0], tokens.grid
                if discriminants_BRD is not None:
                    memory = resize(_read(tokens, discriminants_BRD), size)
        return CamPass(
            torch.stack(cams).mean(0),
            torch.stack(cams_aux).mean(0),
            torch.stack(scores).mean(0),
            class_tokens[0],
            memory,
            key,
            key_grid,
        )


def _read(tokens: Tokens, discriminants_BRD: Tensor) -> Tensor:
    """Patch tokens of images and their mirror images along the discriminants (B,R,h,w), in float32."""
    with torch.autocast(tokens.key_BND.device.type, enabled=False):  # near classes differ little
        score = tokens.key_BND.float() @ discriminants_BRD.float().repeat(2, 1, 1).transpose(1, 2)
    plain, mirror = to_map(score, tokens.grid).chunk(2)
    return (plain + mirror.flip(-1)) / 2


def _fold_mirror(activation_2BChw: Tensor) -> Tensor:
    plain, mirror = activation_2BChw.float().chunk(2)
    return torch.maximum(plain, mirror.flip(-1)).relu()


def to_map(tokens_BND: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B,N,D) -> (B,D,h,w)."""
    return tokens_BND.transpose(1, 2).unflatten(2, grid)


def rounded_size(size: tuple[int, int] | torch.Size, scale: float, multiple: int) -> tuple[int, int]:
    """Both sides times `scale`, rounded to a multiple of the patch size (at least one patch)."""
    height, width = (max(multiple, round(side * scale / multiple) * multiple) for side in size)
    return height, width


def rescale(images_B3HW: Tensor, scale: float, multiple: int) -> Tensor:
    """Bilinear resize to `rounded_size`."""
    size = rounded_size(images_B3HW.shape[-2:], scale, multiple)
    return images_B3HW if size == images_B3HW.shape[-2:] else resize(images_B3HW, size)


def resize(maps: Tensor, size: tuple[int, ...] | list[int]) -> Tensor:
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
