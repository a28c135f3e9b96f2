"""Whether memory grows with the number of photos: the peak of every stage with few and with many tiny ones in a list.

    python examples/benchmarks/many_photos.py FOLDER --photos 1000 100000

FOLDER should be on a fast disk; it keeps what the stages wrote. One JSON line a stage and number: peak of resident
memory in MB (with what the process maps from files, such as PyTorch's libraries), and seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

KINDS = 50  # different photos; the rest are links to them
TINY = ["--iterations", "20", "--batch-size", "4", "--crop-size", "32", "--no-pretrained"]
STAGES = {
    "check": ["check", "photos.txt", "--labels", "labels.csv"],
    "train": ["train", "photos.txt", "--labels", "labels.csv", "-o", "run", "--backbone", "stcl_tiny", *TINY],
    "cam": ["cam", "photos.txt", "--labels", "labels.csv", "-m", "run", "-o", "cams", "--scales", "1"],
    "refine": ["refine", "cams", "--images", "photos.txt", "-o", "masks", "--method", "none"],
    "segtrain": ["segtrain", "photos.txt", "--masks", "masks", "-o", "seg", "--encoder", "stcl_tiny", *TINY],
    "predict": ["predict", "photos.txt", "-m", "seg", "-o", "predictions", "--scales", "1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--side", type=int, default=16, help="pixels of a photo's side")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    options = parser.parse_args()
    for count in options.photos:
        folder = options.folder / str(count)
        make_photos(folder, count, options.side)
        for stage in options.stages:
            seconds, megabytes = measure(STAGES[stage], folder)
            line = {"stage": stage, "photos": count, "peak_mb": megabytes, "seconds": seconds}
            print(json.dumps(line), flush=True)


def make_photos(folder: Path, count: int, side: int) -> None:
    """`count` photos with a list of their paths and a label each."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / "photos" / f"{number // 1000:04d}" / f"{number:08d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < KINDS:
            Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(path)
        elif not path.exists():
            os.link(folder / "photos" / "0000" / f"{number % KINDS:08d}.jpg", path)
    names = [f"photos/{number // 1000:04d}/{number:08d}.jpg" for number in range(count)]
    (folder / "photos.txt").write_text("".join(f"{name}\n" for name in names))
    rows = (f"{name},class {number % 20}\n" for number, name in enumerate(names))
    (folder / "labels.csv").write_text("image,labels\n" + "".join(rows))


def measure(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and peak in MB of `stcl COMMAND`."""
    started = time.monotonic()
    more = ["--overwrite"] if "-o" in command else []
    process = os.fork()
    if process == 0:
        os.chdir(folder)
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.execv(sys.executable, [sys.executable, "-m", "stcl_cli", "--quiet", *command, *more])
    _, status, usage = os.wait4(process, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)}: ended with {os.waitstatus_to_exitcode(status)}")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return round(time.monotonic() - started, 1), round(usage.ru_maxrss / unit, 1)


if __name__ == "__main__":
    main()
