"""The output folders of a chain over four photos, with names that are meant to break a page."""

from pathlib import Path

import numpy as np
from PIL import Image

from stcl_cli.formats.cams import CamFile, write_cam
from stcl_cli.formats.classes import write_classes
from stcl_cli.formats.masks import write_mask
from stcl_cli.formats.runs import append_jsonl, write_config

CLASSES = ("<script>alert(1)</script>", "käse \"x\" & 'y'")
NAMES = ("a", "sub dir/bär 01", "<img src=x onerror=alert(2)>", "d\"' --> <!--")
SIZE = (24, 32)


def truth_of(index: int) -> np.ndarray:
    """The left half background, the right half class 1 or 2; one row is 255."""
    mask_HW = np.zeros(SIZE, np.uint8)
    mask_HW[:, 16:] = 1 + index % 2
    mask_HW[0] = 255
    return mask_HW


def mask_of(index: int) -> np.ndarray:
    """The truth, but for some columns: the fewer, the higher the index; the last ones are 255."""
    mask_HW = truth_of(index)
    mask_HW[:, 16 : 28 - 4 * index] = 0
    mask_HW[:, 31 - index :] = 255
    return mask_HW


def build(root: Path) -> Path:
    """photos, truth, and out/ with run, seg, cams, masks and predictions, as `stcl run` leaves them."""
    rng = np.random.default_rng(0)
    photos, out = root / "photos", root / "out"
    for index, name in enumerate(NAMES):
        path = photos / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)
        write_mask(root / "truth" / f"{name}.png", truth_of(index))
        write_mask(out / "masks" / f"{name}.png", mask_of(index))
        write_mask(out / "predictions" / f"{name}.png", np.where(mask_of(index) == 255, np.uint8(0), mask_of(index)))
        label = index % 2
        cam_KHW = np.full((1, 6, 8), 0.1, np.float32)
        cam_KHW[:, :, 4:] = 0.9
        cam_KHW[:, :, : index + 1] = 0.5  # unsure
        write_cam(out / "cams" / f"{name}.safetensors", CamFile(CLASSES, (label,), cam_KHW, SIZE, scores=(0.875,)))
    options = {"images": str(photos), "weights": "<b>&amp;", "scales": [1.0, 0.5]}
    folders = {"run": "train", "seg": "segtrain", "cams": "cam", "masks": "refine", "predictions": "predict"}
    for place, command in folders.items():
        write_config(out / place, command, options)
        write_classes(out / place / "classes.txt", CLASSES)
    for iteration in range(20, 220, 20):
        record = {"iteration": iteration, "lr": 1e-4, "loss": 2 / iteration, "cls": 1 / iteration}
        append_jsonl(out / "run" / "metrics.jsonl", record | ({"seg": 0.5} if iteration > 100 else {}))
    append_jsonl(out / "run" / "metrics.jsonl", {"iteration": 200, "val_miou": 0.25, "val_background": None})
    append_jsonl(out / "cams" / "failed.jsonl", {"image": "<i>gone</i>", "reason": "is <b>empty</b>"})
    write_config(out, "run", options)
    return root
