"""What the tokens of a ViT's blocks know of objects: maps by a memory of true regions, and of the classifier's.

    python examples/benchmarks/tokens.py DATA -m RUN [--every 4] [--blocks 6 8 12]

DATA as for ablation.py. A memory is filled once with the regions of DATA's train photos, as a training fills its own,
and its maps of the same photos are measured: what the best regions could give with these tokens, and what a memory
would begin with. One JSON line a block: mIoU in percent at the best background score. True masks only measure.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stcl_cli.cams import normalise_cams
from stcl_cli.config import TrainConfig
from stcl_cli.data.labels import match_labels, read_labels
from stcl_cli.data.photos import list_photos
from stcl_cli.data.pixels import read_photo
from stcl_cli.discriminants import fisher_discriminants
from stcl_cli.evaluation.cam_sweep import CamSweep
from stcl_cli.formats.masks import IGNORE, read_mask
from stcl_cli.inference import photo_cams
from stcl_cli.memory import discriminants_of, memory_maps, region_masks, region_of_patches
from stcl_cli.networks import build_stcl, load_stcl
from stcl_cli.runtime.device import make_runtime
from stcl_models.memory_bank import MemoryBank


class Seen(NamedTuple):
    """Of one photo, on its grid of patches."""

    tokens: dict[int, Tensor]  # block -> (N,E), unit length
    cam_1Khw: Tensor
    truth_1Khw: Tensor
    slots_1K: Tensor
    truth_HW: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-m", "--model", type=Path, required=True)
    parser.add_argument("--untrained", action="store_true", help="tokens of the run's ViT as it was before")
    parser.add_argument("--every", type=int, default=4, help="one photo of so many")
    parser.add_argument("--blocks", type=int, nargs="+", default=[6, 8, 10, 12], help="counted from 1")
    arguments = parser.parse_args()

    runtime = make_runtime("auto", "off")
    model, info, trained = load_stcl(arguments.model)
    backbone = build_stcl(trained, len(info.classes)).backbone if arguments.untrained else model.backbone
    model.to(runtime.device).eval()
    backbone.to(runtime.device).eval()
    photos, _ = list_photos(arguments.data / "JPEGImages", arguments.data / "ImageSets/Segmentation/train.txt")
    labelled, _, _ = match_labels(photos, read_labels(arguments.data / "labels.csv", info.classes))
    seen = []
    for photo, labels in labelled[:: arguments.every]:
        pixels = read_photo(photo.path, trained.max_side)
        (cams,) = photo_cams(model, runtime, [pixels], trained.cam_scales)
        truth = read_mask(arguments.data / "SegmentationClass" / f"{Path(photo.name).with_suffix('')}.png")
        truth = np.where(truth > len(info.classes), IGNORE, truth)
        seen.append(_look(backbone, pixels, cams, labels, truth, arguments.blocks))
    for block in arguments.blocks:
        line = {"run": str(arguments.model), "untrained": arguments.untrained, "photos": len(seen), "block": block}
        for name, which in (("true_regions", "truth_1Khw"), ("cam_regions", "cam_1Khw")):
            bank = _memory([(one.tokens[block], getattr(one, which), one.slots_1K) for one in seen], len(info.classes))
            line[name] = round(100 * _miou(seen, block, bank, len(info.classes)), 1)
        print(json.dumps(line), flush=True)


@torch.inference_mode()
def _look(backbone, pixels, cams, labels, truth_HW, blocks) -> Seen:
    """At the largest scale of the CAMs, as the memory sees a photo."""
    grid, patch = cams.key_grid, backbone.patch_size
    resized = cv2.resize(pixels, (grid[1] * patch, grid[0] * patch), interpolation=cv2.INTER_LINEAR)
    images = backbone.normalise(torch.from_numpy(resized).permute(2, 0, 1)[None].to(cams.cam_Chw.device))
    tokens = backbone.vit.forward_intermediates(
        images, indices=[block - 1 for block in blocks], norm=True, output_fmt="NLC", intermediates_only=True
    )
    cam = F.interpolate(cams.cam_aux_Chw[None, list(labels)], size=grid, mode="bilinear").cpu()
    small = cv2.resize(truth_HW, grid[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return Seen(
        {block: F.normalize(t[0], dim=-1).cpu() for block, t in zip(blocks, tokens, strict=True)},
        normalise_cams(cam),
        torch.from_numpy(np.stack([small == label + 1 for label in labels]))[None].float(),
        torch.tensor(labels)[None],
        truth_HW,
    )


def _memory(regions: list[tuple[Tensor, Tensor, Tensor]], classes: int) -> MemoryBank:
    bank = MemoryBank(classes + 1, regions[0][0].shape[1], slots=1)
    found = []
    for tokens_ND, maps_1Khw, slots_1K in regions:
        valid = torch.ones(1, *maps_1Khw.shape[2:], dtype=torch.bool)
        masks, class_1R = region_masks(maps_1Khw, slots_1K, valid, TrainConfig.beta_low, TrainConfig.beta_high)
        class_N = region_of_patches(masks, class_1R)[0]
        found.append((tokens_ND[class_N >= 0], class_N[class_N >= 0]))
    bank.read_by(*fisher_discriminants(*map(torch.cat, zip(*found, strict=True)), classes + 1))
    return bank


def _miou(seen: list[Seen], block: int, bank: MemoryBank, classes: int) -> float:
    sweep = CamSweep(classes)
    for one in seen:
        scores = one.tokens[block] @ discriminants_of(bank.view(), one.slots_1K)[0].t()
        maps, _ = memory_maps(scores.t().unflatten(1, one.cam_1Khw.shape[2:])[None], bank.view(), one.slots_1K)
        maps = F.interpolate(maps, size=one.truth_HW.shape, mode="bilinear")
        sweep.add(one.truth_HW, normalise_cams(maps)[0].numpy(), one.slots_1K[0].tolist())
    return sweep.best()[0]


if __name__ == "__main__":
    main()
