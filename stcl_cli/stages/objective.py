"""The STCL training objective: one batch of labelled photos -> loss and its parts (ToCo's losses, ours where said).

Shapes: B photos, C classes, K label slots, H x W crop, h x w patch tokens, N = h * w, L local crops.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stcl_cli.cams import cut_crops, gather_slots, label_map, label_slots, local_crop_corners, normalise_cams
from stcl_cli.config import TrainConfig
from stcl_cli.losses.class_contrast import class_contrast
from stcl_cli.losses.dense_energy import dense_energy
from stcl_cli.losses.patch_contrast import patch_contrast
from stcl_cli.losses.segmentation import balanced_cross_entropy
from stcl_cli.refine.par import pixel_adaptive_refine
from stcl_cli.runtime import Runtime
from stcl_models.backbone import Tokens
from stcl_models.stcl import CamPass, Stcl, resize


class Objective:
    """Called with a batch and how far the run is; what a phase does not use yet is not computed."""

    def __init__(self, model: Stcl, config: TrainConfig, runtime: Runtime) -> None:
        self.model, self.config, self.runtime = model, config, runtime
        patch = model.backbone.patch_size
        side = config.local_crop_size or 96 * config.crop_size // 448
        grid = config.crop_size // patch
        self.window = min(max(round(side / patch), 4), grid)  # side of a local crop in tokens

    def __call__(self, batch: dict[str, Any], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        config, model = self.config, self.model
        photos_B3HW, labels_BC = batch["photo"], batch["labels"]
        valid_BHW = box_mask(batch["box"], photos_B3HW.shape[-2:])
        images_B3HW = model.backbone.normalise(photos_B3HW)
        contrast = progress >= config.contrast_start and (config.w_patch or config.w_class)
        segment = progress >= config.segmentation_start and config.w_seg

        with self.runtime.autocast():
            tokens = model.backbone(images_B3HW)
            logits_BC, logits_aux_BC = model.logits(tokens)
            scores_BKhw = model.segment(tokens) if segment else None
        parts = {
            "cls": F.multilabel_soft_margin_loss(logits_BC.float(), labels_BC),
            "cls_aux": F.multilabel_soft_margin_loss(logits_aux_BC.float(), labels_BC),
        }
        weights = {"cls": 1.0, "cls_aux": 1.0, "patch": config.w_patch, "class": config.w_class, "seg": config.w_seg,
                   "reg": config.w_reg}  # fmt: skip
        if contrast or segment:
            slots_BK = label_slots(labels_BC)
            cams = self._cams(images_B3HW, tokens)
        if contrast:
            parts |= self._contrast(images_B3HW, tokens, cams, slots_BK, valid_BHW, batch["uniform"])
        if segment:
            parts |= self._segmentation(photos_B3HW, scores_BKhw, cams, slots_BK, valid_BHW)
        loss = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
        return loss, parts

    def _cams(self, images_B3HW: Tensor, tokens: Tokens) -> CamPass:
        """Maps at an eighth of the crop; the plain view's tokens are there already."""
        size = [side // 8 for side in images_B3HW.shape[-2:]]
        plain = Tokens(*(t.detach() for t in tokens[:3]), tokens.grid)
        with self.runtime.autocast():
            return self.model.cam_pass(images_B3HW, self.config.cam_scales, size, plain)

    def _contrast(
        self,
        images_B3HW: Tensor,
        tokens: Tokens,
        cams: CamPass,
        slots_BK: Tensor,
        valid_BHW: Tensor,
        uniform_BL: Tensor,
    ) -> dict[str, Tensor]:
        config, model = self.config, self.model
        valid_Bhw = F.adaptive_avg_pool2d(valid_BHW[:, None].float(), tokens.grid)[:, 0] > 0.5
        aux_BKhw = gather_slots(F.adaptive_avg_pool2d(cams.cam_aux_BChw, tokens.grid), slots_BK)
        aux_BKhw = normalise_cams(aux_BKhw * valid_Bhw[:, None])
        labels_Bhw = label_map(aux_BKhw, slots_BK, config.beta_low, config.beta_high)
        labels_Bhw = torch.where(valid_Bhw, labels_Bhw, 255)
        parts = {}
        if config.w_patch:
            parts["patch"] = patch_contrast(tokens.patch_BND, labels_Bhw.flatten(1))
        if config.w_class:
            model.teacher.update(model.student, config.ema)
            corners, positive_BL = local_crop_corners(labels_Bhw, valid_Bhw, self.window, uniform_BL)
            crops = cut_crops(images_B3HW, corners, model.backbone.patch_size, self.window)
            with self.runtime.autocast():
                student = model.student(model.backbone(crops.flatten(0, 1)).class_BD).unflatten(0, positive_BL.shape)
                # The two global views are the training crop and its mirror image, which the CAM pass has seen anyway
                # (ours): the teacher costs no pass over the image.
                teacher = model.teacher(torch.stack([tokens.class_BD.detach(), cams.mirror_BD], 1))
            parts["class"] = class_contrast(teacher, student, positive_BL, config.temperature)
        return parts

    def _segmentation(
        self, photos_B3HW: Tensor, scores_BKhw: Tensor, cams: CamPass, slots_BK: Tensor, valid_BHW: Tensor
    ) -> dict[str, Tensor]:
        config = self.config
        half = [side // 2 for side in photos_B3HW.shape[-2:]]
        photos_half = resize(photos_B3HW.float(), half)
        valid_half = F.adaptive_avg_pool2d(valid_BHW[:, None].float(), half) > 0.5
        maps_BKHW = normalise_cams(gather_slots(resize(cams.cam_BChw, half), slots_BK) * valid_half)
        # PAR is linear and keeps constants, so one pass serves both background scores: they are thresholds after it.
        refined = pixel_adaptive_refine(maps_BKHW, photos_half)
        target = label_map(refined, slots_BK, config.beta_low, config.beta_high)
        target = torch.where(valid_half[:, 0], target, 255)
        parts = {"seg": balanced_cross_entropy(resize(scores_BKhw.float(), half), target)}
        if config.w_reg:
            parts["reg"] = dense_energy(scores_BKhw, photos_B3HW, valid_BHW)
        return parts


def box_mask(box_B4: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """(top, bottom, left, right) -> bool (B,H,W), true inside."""
    rows = torch.arange(size[0], device=box_B4.device)[None, :, None]
    columns = torch.arange(size[1], device=box_B4.device)[None, None, :]
    top, bottom, left, right = box_B4[:, :, None, None].unbind(1)
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
