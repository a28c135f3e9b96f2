"""What each part of STCL brings: trains every row of a table with several seeds, one JSON line a run on stdout.

    python examples/benchmarks/ablation.py DATA --backbone deit_tiny_patch16_224 --weights FILE -o OUT --seeds 0 1 2

DATA has PASCAL VOC's layout: JPEGImages/, labels.csv, classes.txt, ImageSets/Segmentation/train.txt (and val.txt), and
SegmentationClass/, which only measures. The background score is the one that is best for the CAMs on train; the refined
masks are at that score. What is in OUT already is not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from stcl_cli.config import CamConfig, EvalConfig, RefineConfig, TrainConfig
from stcl_cli.stages import cam, evaluate, refine, train

NO_MEMORY = {"memory_slots": 0}
EARLY = {"contrast_start": 0.05}  # without a memory to wait for
FIFO, FIXED, UNGUIDED = {"memory_update": "fifo"}, {"memory_loss": "fixed"}, {"guidance": 0.0}
CLASS, BRANCH = {"w_class": 0.5}, {"w_seg": 0.1}  # ToCo's weights
ROWS: dict[str, dict[str, Any]] = {
    "classifier": {**NO_MEMORY, "w_patch": 0.0},
    "patch contrast": NO_MEMORY,
    "patch and class contrast": {**NO_MEMORY, **CLASS},
    "patch and class contrast, segmentation branch": {**NO_MEMORY, **CLASS, **BRANCH},
    "patch contrast, early": {**NO_MEMORY, **EARLY},
    "patch and class contrast, early": {**NO_MEMORY, **CLASS, **EARLY},
    "patch contrast, bank with fifo and fixed weights": {**FIFO, **FIXED, **UNGUIDED},
    "the same with adaptive update": {**FIXED, **UNGUIDED},
    "the same with adaptive update and loss": UNGUIDED,
    "default without consolidation": {"memory_consolidation": False},
    "default": {},
    "default without memory loss": {"w_memory": 0.0},
    "default without patch contrast": {"w_patch": 0.0},
    "default with fifo": FIFO,
    "default with fixed weights": FIXED,
    "default with fifo and fixed weights": {**FIFO, **FIXED},
    "default and class contrast": CLASS,
    "default, class contrast, segmentation branch": {**CLASS, **BRANCH},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--backbone", default="deit_tiny_patch16_224")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--crop-size", type=int, default=224)
    parser.add_argument("--lr", type=float, default=1.2e-4)
    parser.add_argument("--layer-decay", type=float, default=None)
    parser.add_argument("--amp", default="auto")
    options = parser.parse_args()
    for seed in options.seeds:
        for row in options.rows:
            folder = options.output / f"{row.replace(' ', '-')}-{seed}"
            result = measure(options, ROWS[row], seed, folder)
            line = {"data": options.data.name, "row": row, "seed": seed, "iterations": options.iterations}
            line |= {"layer_decay": options.layer_decay, **result}
            print(json.dumps(line), flush=True)


def measure(options: argparse.Namespace, switches: dict[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """mIoU in percent of the CAMs on train, and of the refined masks on every list that the data has."""
    photos, labels = str(options.data / "JPEGImages"), str(options.data / "labels.csv")
    lists = {path.stem: str(path) for path in (options.data / "ImageSets" / "Segmentation").glob("*.txt")}
    common = {"resume": True, "amp": options.amp}
    started = time.perf_counter()
    train.run(
        TrainConfig(
            images=photos,
            labels=labels,
            list=lists["train"],
            output=str(folder / "run"),
            backbone=options.backbone,
            weights=options.weights,
            iterations=options.iterations,
            crop_size=options.crop_size,
            lr=options.lr,
            layer_decay=options.layer_decay,
            seed=seed,
            **switches,
            **common,
        )
    )
    seconds = round(time.perf_counter() - started)
    cams, truth = str(folder / "cams"), str(options.data / "SegmentationClass")
    listed = folder / "photos.txt"
    listed.write_text("\n".join(Path(path).read_text("utf-8") for path in lists.values()), "utf-8")
    cam.run(CamConfig(images=photos, labels=labels, list=str(listed), model=str(folder / "run"), output=cams, **common))
    best = evaluate.run(EvalConfig(predictions=cams, truth=truth, list=lists["train"])).summary
    background = best["best_background"]
    result = {"train_seconds": seconds, "background": background, "cams_train": round(100 * best["miou"], 2)}
    masks = str(folder / "masks")
    refine.run(RefineConfig(cams=cams, images=photos, output=masks, background=(background,), resume=True))
    for name, path in sorted(lists.items()):
        miou = evaluate.run(EvalConfig(predictions=masks, truth=truth, list=path)).summary["miou"]
        result[f"masks_{name}"] = round(100 * miou, 2)
    return result


if __name__ == "__main__":
    main()
