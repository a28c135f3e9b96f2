"""What compact CAM files cost: masks made from them against masks from full-resolution float32 CAMs.

    python examples/benchmarks/cam_storage.py PHOTOS -m RUN --labels labels.csv --truth MASKS [--list train.txt]

Prints one JSON line: mIoU of the masks made either way, their difference, and the size of the largest file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from stcl_cli import inference
from stcl_cli.config import CamConfig, RefineConfig
from stcl_cli.data.labels import match_labels, read_labels
from stcl_cli.data.photos import list_photos
from stcl_cli.data.pixels import photo_size, read_photo
from stcl_cli.evaluation.metrics import confusion_matrix, mean_iou
from stcl_cli.formats.cams import CamFile, read_cam, write_cam
from stcl_cli.formats.files import output_path
from stcl_cli.formats.masks import read_mask
from stcl_cli.inference import CAM_STRIDE, label_maps, photo_cams
from stcl_cli.networks import load_stcl
from stcl_cli.refine.chain import mask_of, refine_scores
from stcl_cli.runtime.device import make_runtime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--truth", required=True)
    parser.add_argument("--list")
    parser.add_argument("--method", default="crf")
    parser.add_argument("--background", type=float, default=RefineConfig.background[0])
    arguments = parser.parse_args()

    runtime = make_runtime("auto", "auto")
    model, info, trained = load_stcl(Path(arguments.model))
    model.to(runtime.device).eval()
    config = RefineConfig(cams="", images="", output="", method=arguments.method, background=(arguments.background,))
    photos, _ = list_photos(arguments.images, arguments.list)
    matched, _, _ = match_labels(photos, read_labels(arguments.labels, info.classes))
    totals = {"float32": 0, "file": 0}
    largest = 0
    with tempfile.TemporaryDirectory() as folder:
        for photo, labels in matched:
            pixels = read_photo(photo.path, trained.max_side)
            maps = {}
            for stride in (1, CAM_STRIDE):
                inference.CAM_STRIDE = stride  # a CAM at the photo's own size is made for this comparison only
                (cams,) = photo_cams(model, runtime, [pixels], CamConfig.scales)
                maps[stride] = label_maps([cams], [labels], model.memory, trained.guidance)[0].cpu().numpy()
            file = CamFile(
                classes=info.classes,
                labels=labels,
                cam_KHW=maps[CAM_STRIDE],
                size=photo_size(photo.path),
                source="given",
                scores=tuple(cams.probability_C[list(labels)].tolist()),
            )
            path = output_path(folder, "cam", ".safetensors")
            write_cam(path, file)
            largest = max(largest, path.stat().st_size)
            ways = {"float32": replace(file, cam_KHW=maps[1]), "file": read_cam(path)}
            truth = read_mask(output_path(arguments.truth, photo.name, ".png"))
            for name, cam in ways.items():
                (scores,) = refine_scores([cam], [pixels], config, runtime.device)
                mask = mask_of(None if scores is None else scores.cpu().numpy(), cam)
                totals[name] = totals[name] + confusion_matrix(truth, mask, len(info.classes) + 1)
    miou = {name: 100 * mean_iou(total) for name, total in totals.items()}
    result = {
        "photos": len(matched),
        "method": config.method,
        **{f"miou_{name}": round(value, 3) for name, value in miou.items()},
        "difference": round(miou["file"] - miou["float32"], 3),
        "largest_file_bytes": largest,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
