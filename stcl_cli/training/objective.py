"""The STCL training objective: one batch of labelled photos -> loss and its parts (ToCo's losses, ours where said).

Shapes: B photos, C classes, K label slots, H x W crop, h x w patch tokens, N = h * w, L local crops, R = 1 + K regions
of a photo (background first).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stcl_cli.cams import (
    cut_crops,
    gather_slots,
    label_map,
    label_slots,
    local_crop_corners,
    normalise_cams,
    shrink,
)
from stcl_cli.config import TrainConfig
from stcl_cli.errors import StclError
from stcl_cli.losses.class_contrast import class_contrast
from stcl_cli.losses.dense_energy import dense_energy
from stcl_cli.losses.patch_contrast import patch_contrast
from stcl_cli.losses.segmentation import balanced_cross_entropy
from stcl_cli.memory import discriminants_of, fuse, memory_maps
from stcl_cli.refine.par import pixel_adaptive_refine
from stcl_cli.runtime.device import Runtime
from stcl_cli.runtime.graphs import Replayed, ReplayedWithGradient
from stcl_cli.training.remember import Remember
from stcl_models.backbone import Tokens
from stcl_models.stcl import CamPass, Stcl, resize

REPLAYED_PIXELS = 2**22  # of a step; with more, kernels take longer than launching them
LEAST_WINDOW = 4  # tokens on a side, of which a local crop shows something
MOST_SLOTS = 16  # with more labels on one photo each batch gets as many maps as it needs, for which a GPU is waited


class Maps(NamedTuple):
    """Where each photo's own classes are, in 0..1, at an eighth of the crop: CAMs, guided by the memory."""

    last_BKhw: Tensor
    aux_BKhw: Tensor


def local_window(config: TrainConfig, patch: int) -> int:
    """Side of a local crop in tokens. StclError if it is not 4 to those of the training crop."""
    most = config.crop_size // patch
    if config.local_crop_size is None:
        return min(max(round(96 * config.crop_size // 448 / patch), LEAST_WINDOW), most)
    window = round(config.local_crop_size / patch)
    if not LEAST_WINDOW <= window <= most:
        raise StclError(
            f"--local-crop-size {config.local_crop_size}: give {LEAST_WINDOW * patch} to {most * patch}, which are "
            f"{LEAST_WINDOW} patches and the --crop-size"
        )
    return window


class Objective:
    """Called with a batch and how far the run is; what a phase does not use yet is not computed.

    `most_labels` is how many labels a photo of the run has at the most, if that is known.
    """

    def __init__(self, model: Stcl, config: TrainConfig, runtime: Runtime, most_labels: int | None = None) -> None:
        self.model, self.config, self.runtime = model, config, runtime
        recordable = runtime.device.type == "cuda" and most_labels is not None and most_labels <= MOST_SLOTS
        self.slots = max(1, most_labels) if recordable else None
        self.window = local_window(config, model.backbone.patch_size)
        self.remember = Remember(model.memory, config) if model.memory is not None else None
        self.forget()
        if recordable and _launching_takes_longer(model, config):
            self.see = ReplayedWithGradient(self._see, list(model.backbone.parameters()))
            self.look = {guided: Replayed(work) for guided, work in self.look.items()}

    def forget(self) -> None:
        """What was recorded, and the memory it holds."""
        self.see: Callable[[Tensor], Sequence[Tensor]] = self._see
        self.look: dict[bool, Callable[..., tuple[CamPass, Maps]]]
        self.look = {guided: partial(self._look, guided) for guided in (False, True)}

    def __call__(self, batch: dict[str, Any], progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        config, model = self.config, self.model
        photos_B3HW, labels_BC = batch["photo"], batch["labels"]
        valid_BHW = box_mask(batch["box"], photos_B3HW.shape[-2:])
        images_B3HW = model.backbone.normalise(photos_B3HW)
        second_phase = progress >= config.contrast_start
        remember = second_phase and self.remember is not None
        guided = remember and progress >= config.memory_start
        # Where a memory will guide, not before it: by CAMs alone patch contrast took parts of objects for background,
        # for good.
        waits = self.remember is not None and config.guidance
        contrast = (guided if waits else second_phase) and (config.w_patch or config.w_class)
        segment = progress >= config.segmentation_start and config.w_seg

        tokens = Tokens(*self.see(images_B3HW), model.backbone.grid(images_B3HW))
        with self.runtime.autocast():
            logits_BC, logits_aux_BC = model.logits(tokens)
            scores_BKhw = model.segment(tokens) if segment else None
        parts = {
            "cls": F.multilabel_soft_margin_loss(logits_BC.float(), labels_BC),
            "cls_aux": F.multilabel_soft_margin_loss(logits_aux_BC.float(), labels_BC),
        }
        weights = {"cls": 1.0, "cls_aux": 1.0, "patch": config.w_patch, "class": config.w_class, "seg": config.w_seg,
                   "reg": config.w_reg, "memory": config.w_memory}  # fmt: skip
        if contrast or remember or segment:
            slots_BK = label_slots(labels_BC, self.slots)
            seen = (token.detach() for token in tokens[:4])
            cams, maps = self.look[bool(guided)](images_B3HW, slots_BK, valid_BHW, *seen)
            if guided:
                self.look[False] = partial(self._look, False)  # not called again: what it recorded is memory
        if contrast:
            parts |= self._contrast(images_B3HW, tokens, cams, maps, slots_BK, valid_BHW, batch["uniform"])
        if remember:
            if guided and config.w_memory:
                regions = self.remember.regions(maps.aux_BKhw, slots_BK, valid_BHW, tokens.grid)
                parts["memory"] = self.remember.loss(tokens, regions, cams.logits_BC, slots_BK)
            self.remember.store(cams, maps.aux_BKhw, slots_BK, valid_BHW, batch["index"], progress)
        if segment:
            parts |= self._segmentation(photos_B3HW, scores_BKhw, maps, slots_BK, valid_BHW)
        loss = torch.stack([weights[name] * value for name, value in parts.items()]).sum()
        return loss, parts

    def _see(self, images_B3HW: Tensor) -> tuple[Tensor, ...]:
        """The tokens of the plain view."""
        with self.runtime.autocast():
            return self.model.backbone(images_B3HW)[:4]

    def _look(
        self, guided: bool, images_B3HW: Tensor, slots_BK: Tensor, valid_BHW: Tensor, *seen: Tensor
    ) -> tuple[CamPass, Maps]:
        """The other views, and maps at an eighth of the crop; `guided` by the memory. The plain view was `seen`."""
        discriminants = discriminants_of(self.model.memory.view(), slots_BK) if guided else None
        size = [side // 8 for side in images_B3HW.shape[-2:]]
        plain = Tokens(*seen, self.model.backbone.grid(images_B3HW))
        with self.runtime.autocast():
            cams = self.model.cam_pass(images_B3HW, self.config.cam_scales, size, plain, discriminants)
        valid = shrink(valid_BHW, size)[:, None]
        maps = [normalise_cams(gather_slots(cam, slots_BK) * valid) for cam in (cams.cam_BChw, cams.cam_aux_BChw)]
        if guided and self.config.guidance:
            memory_BKhw, trust_BK = memory_maps(cams.memory_BRhw, self.model.memory.view(), slots_BK)
            memory_BKhw = normalise_cams(memory_BKhw * valid)
            maps = [normalise_cams(fuse(cam, memory_BKhw, trust_BK, self.config.guidance)) for cam in maps]
        return cams, Maps(*maps)

    def _contrast(
        self,
        images_B3HW: Tensor,
        tokens: Tokens,
        cams: CamPass,
        maps: Maps,
        slots_BK: Tensor,
        valid_BHW: Tensor,
        uniform_BL: Tensor,
    ) -> dict[str, Tensor]:
        config, model = self.config, self.model
        valid_Bhw = shrink(valid_BHW, tokens.grid)
        aux_BKhw = F.adaptive_avg_pool2d(maps.aux_BKhw, tokens.grid)
        labels_Bhw = label_map(aux_BKhw, slots_BK, config.beta_low, config.beta_high)
        labels_Bhw = torch.where(valid_Bhw, labels_Bhw, 255)
        parts = {}
        if config.w_patch:
            parts["patch"] = patch_contrast(tokens.patch_BND, labels_Bhw.flatten(1))
        if config.w_class:
            model.teacher.update(model.student, config.ema ** (1 / config.accumulate))  # once a part
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
        self, photos_B3HW: Tensor, scores_BKhw: Tensor, maps: Maps, slots_BK: Tensor, valid_BHW: Tensor
    ) -> dict[str, Tensor]:
        config = self.config
        half = [side // 2 for side in photos_B3HW.shape[-2:]]
        photos_half = resize(photos_B3HW.float(), half)
        valid_half = shrink(valid_BHW, half)
        # PAR is linear and keeps constants, so one pass serves both background scores: they are thresholds after it.
        refined = pixel_adaptive_refine(resize(maps.last_BKhw, half), photos_half)
        target = label_map(refined, slots_BK, config.beta_low, config.beta_high)
        target = torch.where(valid_half, target, 255)
        parts = {"seg": balanced_cross_entropy(resize(scores_BKhw.float(), half), target)}
        if config.w_reg:
            parts["reg"] = dense_energy(scores_BKhw, photos_B3HW, valid_BHW)
        return parts


def _launching_takes_longer(model: Stcl, config: TrainConfig) -> bool:
    """Whether a GPU records the network's passes and replays them: for a step of few pixels that is one part."""
    few = config.batch_size * config.crop_size**2 <= REPLAYED_PIXELS
    whole = config.accumulate == 1 and not config.checkpointing
    # Its statistics change in every pass, those before the recording too, and several ranks share them.
    steady = not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.backbone.modules())
    return few and whole and steady


def box_mask(box_B4: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """(top, bottom, left, right) -> bool (B,H,W), true inside."""
    rows = torch.arange(size[0], device=box_B4.device)[None, :, None]
    columns = torch.arange(size[1], device=box_B4.device)[None, None, :]
    top, bottom, left, right = box_B4[:, :, None, None].unbind(1)
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
