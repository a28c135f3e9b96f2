#!/usr/bin/env python3
"""How `stcl refine` takes a folder: seconds by processes, same masks from all of them, memory by size of the folder.

    python examples/benchmarks/refine_folder.py PHOTOS                          # 1 process, then 2; wants idle cores
    python examples/benchmarks/refine_folder.py PHOTOS --workers 1 --counts 50 500 --side 160

CAMs are random blobs of two classes; where the folder holds fewer photos than --counts asks for, they come again. One
JSON line a run on stdout: `seconds` of the whole command with its start, `peak_mb` of the largest of its processes,
`masks` a check value of all masks: it must not depend on the processes. Linux or macOS.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from stcl_cli.data.photos import list_photos
from stcl_cli.data.pixels import read_photo
from stcl_cli.formats.cams import CamFile, write_cam
from stcl_cli.formats.images import write_jpeg

KB = 1 if sys.platform == "darwin" else 1024  # in what unit the system gives a peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", help="a folder of photos")
    parser.add_argument("--counts", nargs="+", type=int, default=[100], help="sizes of the folder")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--side", type=int, default=500, help="longest side of the photos")
    parser.add_argument("--method", default="crf")
    options = parser.parse_args()
    for count in options.counts:
        with tempfile.TemporaryDirectory() as folder:
            make_folder(Path(folder), options.photos, count, options.side)
            seconds = []
            for workers in options.workers:
                measurement = refine(Path(folder), workers, options.method)
                seconds.append(measurement["seconds"])
                measurement["times_faster"] = round(seconds[0] / seconds[-1], 2)
                print(
                    json.dumps({"photos": count, "side": options.side, "workers": workers, **measurement}), flush=True
                )


def make_folder(folder: Path, photos: str, count: int, side: int) -> None:
    """`count` photos with a CAM file each."""
    listed, _ = list_photos(photos)
    random = np.random.default_rng(0)
    for number in range(count):
        name = f"{number:05}"
        pixels = read_photo(listed[number % len(listed)].path, side)
        (folder / "photos").mkdir(exist_ok=True)
        write_jpeg(folder / "photos" / f"{name}.jpg", pixels)
        coarse = random.random((2, 5, 5), np.float32)
        maps = np.stack([cv2.resize(m, (pixels.shape[1] // 4, pixels.shape[0] // 4)) for m in coarse])
        write_cam(folder / "cams" / f"{name}.safetensors", CamFile(("a", "b"), (0, 1), maps, pixels.shape[:2]))
    (folder / "cams" / "classes.txt").write_text("a\nb\n")


def refine(folder: Path, workers: int, method: str) -> dict[str, float | str]:
    """One run of the command; its processes have one thread each."""
    words = ["refine", str(folder / "cams"), "--images", str(folder / "photos"), "-o", str(folder / "masks")]
    words += ["--workers", str(workers), "--method", method, "--device", "cpu", "--overwrite", "--quiet"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "stcl_cli", *words],
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    order = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit("stcl refine failed")
    masks = sorted((folder / "masks").glob("*.png"))
    if order.decode().split() != [str(path) for path in masks]:
        raise SystemExit("the masks came in another order than the photos")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in masks)).hexdigest()[:16]
    return {"seconds": round(seconds, 2), "peak_mb": usage.ru_maxrss * KB // 10**6, "masks": digest}


if __name__ == "__main__":
    main()
