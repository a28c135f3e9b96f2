#!/usr/bin/env python3
"""What the steps of `stcl refine` are worth: mIoU of masks made from the same CAMs, one JSON line a method.

    stcl cam PHOTOS --labels LABELS -m RUN --affinity -o CAMS
    python examples/benchmarks/refine_worth.py PHOTOS --cams CAMS --truth TRUTH --list LIST

Every method, the first too, gets its own best background score, as is fair: `picked` on every other photo of the list
(`picked_on`) and measured on the rest, `miou`, where `best` is the most that any score gives. `gain` is over the first
method. All other settings are the defaults of `stcl refine`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from stcl_cli.config import RefineConfig
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.data.pixels import read_photo
from stcl_cli.evaluation.metrics import confusion_matrix, mean_iou
from stcl_cli.formats.cams import read_cam
from stcl_cli.formats.masks import read_mask
from stcl_cli.refine.chain import masks_of, refine_scores

METHODS = ("none", "par", "crf", "affinity", "affinity,crf")
BACKGROUNDS = tuple(round(0.4 + 0.05 * step, 2) for step in range(7))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--cams", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True, help="true masks, <name>.png")
    parser.add_argument("--list", default=None, help="the photos to measure on")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--backgrounds", nargs="+", type=float, default=BACKGROUNDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    photos, _ = list_photos(options.photos, options.list)
    halves = count(photos[::2], options), count(photos[1::2], options)
    plain = None
    for method in options.methods:
        picked_on, measured_on = ([mean_iou(matrix) for matrix in half[method]] for half in halves)
        pick = int(np.argmax(picked_on))
        miou = measured_on[pick]
        plain = miou if plain is None else plain
        line = {
            **{"method": method, "photos": len(photos), "picked": options.backgrounds[pick]},
            **{"picked_on": round(100 * picked_on[pick], 1), "miou": round(100 * miou, 1)},
            **{"gain": round(100 * (miou - plain), 1), "best": round(100 * max(measured_on), 1)},
            "all_photos": {
                str(score): round(100 * mean_iou(one + other), 1)
                for score, one, other in zip(options.backgrounds, *(half[method] for half in halves), strict=True)
            },
        }
        print(json.dumps(line), flush=True)


def count(photos: Sequence[Photo], options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Confusion matrices of each method, one a background score."""
    counts: dict[str, np.ndarray] = {}
    for photo in photos:
        cam, truth = (
            read_cam(options.cams / f"{photo.name}.safetensors"),
            read_mask(options.truth / f"{photo.name}.png"),
        )
        for method in options.methods:
            config = RefineConfig(
                cams="", images="", output="", method=method, background=tuple(options.backgrounds), device="cpu"
            )
            pixels = read_photo(photo.path, config.max_side)
            (scores,) = refine_scores([cam], [pixels], config, torch.device("cpu"))
            masks = masks_of(None if scores is None else scores.numpy(), cam) * (
                1 if cam.labels else len(options.backgrounds)
            )
            matrices = [confusion_matrix(truth, mask, len(cam.classes) + 1) for mask in masks]
            counts[method] = counts.get(method, 0) + np.array(matrices)
    return counts


if __name__ == "__main__":
    main()
