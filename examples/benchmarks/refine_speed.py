#!/usr/bin/env python3
"""How fast the refinement is, measured against what it replaces, side by side.

    python examples/benchmarks/refine_speed.py PHOTOS                   # CPU, needs pip install "stcl[pydensecrf]"
    python examples/benchmarks/refine_speed.py PHOTOS --device cuda     # images a second of batches on a GPU

One JSON line a measurement on stdout. On a CPU: seconds of CPU time on one thread, ours and the other in turn on the
same photo, medians over photos, and the median of the ratios. On a GPU: images a second and milliseconds an image.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from stcl_cli.refine.crf import dense_crf
from stcl_cli.refine.par import pixel_adaptive_refine
from stcl_cli.refine.presets import CRF_PRESETS
from stcl_cli.refine.walk import local_affinity, random_walk

SUFFIXES = {".jpg", ".jpeg", ".png"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of photos")
    parser.add_argument("--count", type=int, default=15, help="photos to measure on, evenly from the folder")
    parser.add_argument(
        "--side", type=int, default=0, help="scale the longer side to this (0: as they are; VOC has 500)"
    )
    parser.add_argument("--presets", nargs="+", default=["irn"], choices=CRF_PRESETS, metavar="NAME")
    parser.add_argument("--labels", nargs="+", type=int, default=[3, 21])
    parser.add_argument("--only", nargs="+", default=["crf", "sets", "par", "walk"], metavar="PART")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=32, help="photos in a batch on a GPU")
    options = parser.parse_args()
    torch.set_num_threads(1)
    photos = load_photos(options.photos, options.count, options.side)
    device = torch.device(options.device)
    measurements = on_cpu(photos, options) if device.type == "cpu" else on_gpu(photos, options, device)
    for measurement in measurements:
        print(json.dumps(measurement), flush=True)


def on_cpu(photos: list[np.ndarray], options: argparse.Namespace) -> Iterable[dict[str, Any]]:
    for preset in options.presets:
        for K in options.labels:
            if "crf" in options.only:
                yield compare_crf(photos, preset, K, sets=1)
        if "sets" in options.only:
            yield compare_crf(photos, preset, 3, sets=2)
    for K in options.labels:
        if "par" in options.only:
            yield compare_par(K)
    for steps in (16, 256):
        if "walk" in options.only:
            yield compare_walk(steps)


def compare_crf(photos: list[np.ndarray], preset: str, K: int, sets: int) -> dict[str, Any]:
    """Ours against pydensecrf, which needs a run for each set of scores; also how far the marginals are apart."""
    from stcl_cli.refine import pydensecrf_backend

    params, pairs, furthest, equal = CRF_PRESETS[preset], [], 0.0, []
    dense_crf([blobs(K, *photos[0].shape[:2], 0)], photos[:1], params)  # warm-up
    for seed, photo in enumerate(photos):
        probs = [torch.stack([blobs(K, *photo.shape[:2], seed + 1000 * s) for s in range(sets)])]
        theirs, other = cpu_seconds(lambda p=probs, x=photo: pydensecrf_backend.dense_crf(p, [x], params))
        mine, ours = cpu_seconds(lambda p=probs, x=photo: dense_crf(p, [x], params))
        pairs.append((mine, theirs))
        furthest = max(furthest, (ours[0] - other[0]).abs().max().item())
        equal.append((ours[0].argmax(1) == other[0].argmax(1)).double().mean().item())
    height, width = photos[0].shape[:2]
    return {
        **{"part": "crf", "preset": preset, "labels": K, "score_sets": sets, "photos": len(photos)},
        **{"size": [height, width], **summary(pairs, "pydensecrf")},
        **{"max_difference": furthest, "equal_labels": statistics.mean(equal)},
    }


def compare_par(K: int, side: int = 448, rounds: int = 3) -> dict[str, Any]:
    photo, probs = 255 * torch.rand(1, 3, side, side), torch.rand(1, K, side, side).softmax(1)
    pairs, furthest, memory = [], 0.0, []
    for _ in range(rounds):
        start = peak_mb(forget=True)  # ours goes first: what stacking has freed would hide what it takes
        mine, ours = cpu_seconds(lambda: pixel_adaptive_refine(probs, photo))
        middle, again = peak_mb(), peak_mb(forget=True)
        theirs, other = cpu_seconds(lambda: stacking_par(probs, photo))
        memory.append((middle - start, peak_mb() - again))
        pairs.append((mine, theirs))
        furthest = max(furthest, (ours - other).abs().max().item())
    extra = dict(zip(("ours_extra_mb", "stacking_extra_mb"), map(max, zip(*memory, strict=True)), strict=True))
    cell = {"part": "par", "labels": K, "size": [side, side], **summary(pairs, "stacking"), **extra}
    return {**cell, "max_difference": furthest}


def peak_mb(forget: bool = False) -> int:
    """The most memory this process had so far, or since it was told to forget; Linux."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1000


def stacking_par(probs: Tensor, photos: Tensor, iterations: int = 10) -> Tensor:
    """The same refinement as it is usually written: all neighbours of all labels stacked in one tensor."""

    def neighbours(x_BCHW: Tensor) -> Tensor:
        H, W = x_BCHW.shape[2:]
        views = []
        for d in (1, 2, 4, 8, 12, 24):
            padded = F.pad(x_BCHW, (d,) * 4, mode="replicate")
            corners = [(y, x) for y in (0, d, 2 * d) for x in (0, d, 2 * d) if (y, x) != (d, d)]
            views += [padded[:, :, y : y + H, x : x + W] for y, x in corners]
        return torch.stack(views, 2)

    around = neighbours(photos)
    colour = ((around - photos[:, :, None]).abs() / (0.3 * (around.std(2, keepdim=True) + 1e-8))) ** 2
    distance = torch.tensor([d * (1 if n in (1, 3, 4, 6) else 2**0.5) for d in (1, 2, 4, 8, 12, 24) for n in range(8)])
    near = (-((distance / (0.3 * distance.std())) ** 2)).softmax(0)[:, None, None]
    kappa = ((-colour.mean(1)).softmax(1) + 0.01 * near) / 1.01
    for _ in range(iterations):
        probs = (neighbours(probs) * kappa[:, None]).sum(2)
    return probs


def compare_walk(steps: int, side: int = 56, K: int = 3) -> dict[str, Any]:
    """Sparse steps against squaring the dense matrix of the same affinity (steps is a power of two)."""
    cams, N = torch.rand(K, side, side), side * side
    similarity = local_affinity(torch.rand(N, 64), (side, side))
    patch = torch.arange(N).view(side, side)
    near = (patch // side, patch % side)
    distance = torch.stack([(x.view(N, 1) - x.view(1, N)).abs() for x in near]).amax(0)
    inside = F.unfold(torch.ones(1, 1, side, side), 5, padding=2)[0].t() > 0

    def squaring() -> Tensor:
        transition = torch.zeros(N, N)
        transition[distance <= 2] = similarity.view(N, -1)[inside] ** 16
        transition /= transition.sum(1, keepdim=True)
        for _ in range(steps.bit_length() - 1):
            transition = transition @ transition
        return (transition @ cams.view(K, N).t()).t().view_as(cams)

    theirs, other = cpu_seconds(squaring)
    mine, ours = min((cpu_seconds(lambda: random_walk(cams, similarity, steps)) for _ in range(5)), key=lambda x: x[0])
    difference = (ours - other).abs().max().item()
    return {
        **{"part": "walk", "steps": steps, "size": [side, side], "labels": K},
        **{**summary([(mine, theirs)], "squaring"), "max_difference": difference},
    }


def on_gpu(photos: list[np.ndarray], options: argparse.Namespace, device: torch.device) -> Iterable[dict[str, Any]]:
    """Batches of different photos on a GPU; the scores are there already, the photos travel."""
    photos = [photos[i % len(photos)] for i in range(options.batch)]
    name = torch.cuda.get_device_name(device)
    cells = [(preset, K, 1) for preset in options.presets for K in options.labels]
    cells += [(preset, 3, 2) for preset in options.presets] if "sets" in options.only else []
    for preset, K, sets in cells:
        probs = [torch.stack([blobs(K, *p.shape[:2], s) for s in range(sets)]).to(device) for p in photos]
        seconds = gpu_seconds(lambda p=probs, q=preset: dense_crf(p, photos, CRF_PRESETS[q]))
        cell = {"part": "crf", "preset": preset, "labels": K, "score_sets": sets, "batch": len(photos)}
        yield {**cell, "size": list(photos[0].shape[:2]), **rate(seconds, len(photos)), "device": name}
    for K in options.labels:
        if "par" in options.only:
            images = 255 * torch.rand(8, 3, 448, 448, device=device)
            probs_B = torch.rand(8, K, 448, 448, device=device)
            seconds = gpu_seconds(lambda p=probs_B, x=images: pixel_adaptive_refine(p, x))
            yield {"part": "par", "labels": K, "batch": 8, "size": [448, 448], **rate(seconds, 8), "device": name}


def load_photos(folder: Path, count: int, side: int) -> list[np.ndarray]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise SystemExit(f"{folder}: holds no photos")
    photos = []
    for path in files[:: max(1, len(files) // count)][:count]:
        photo = Image.open(path).convert("RGB")
        scale = side / max(photo.size) if side else 1
        photos.append(np.array(photo.resize([max(1, round(x * scale)) for x in photo.size], Image.Resampling.BICUBIC)))
    return photos


def blobs(K: int, H: int, W: int, seed: int) -> Tensor:
    """Scores (K, H, W) in blobs, like CAMs."""
    coarse = torch.randn(1, K, H // 24 + 2, W // 24 + 2, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(3 * coarse, size=(H, W), mode="bilinear").softmax(1)[0]


def cpu_seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def gpu_seconds(function: Callable[[], Any], rounds: int = 5) -> float:
    times = []
    for _ in range(rounds + 2):
        torch.cuda.synchronize()
        start = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def summary(pairs: list[tuple[float, float]], other: str) -> dict[str, float]:
    ours, theirs = zip(*pairs, strict=True)
    return {
        "ours_s": round(statistics.median(ours), 4),
        f"{other}_s": round(statistics.median(theirs), 4),
        "times_faster": round(statistics.median(b / a for a, b in pairs), 2),
    }


def rate(seconds: float, images: int) -> dict[str, float]:
    return {"images_per_s": round(images / seconds, 1), "ms_per_image": round(1000 * seconds / images, 3)}


if __name__ == "__main__":
    main()
