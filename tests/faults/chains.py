"""What is run, and what must be there in the end."""

import json
import shutil
from pathlib import Path

from processes import Ended, run

from stcl_cli.formats.cams import read_cam
from stcl_cli.formats.masks import read_mask

TINY = "--iterations 6 --batch-size 2 --crop-size 32 --save-every 2 --log-every 1 --device cpu"
MEASURED = "--val-masks truth --val-every 3"
COMMANDS = {
    "train": f"train photos --labels labels.csv -o out --backbone stcl_tiny --no-pretrained {TINY} {MEASURED} "
    "--contrast-start 0.2 --memory-start 0.4 --segmentation-start 0.5 --cam-scales 1 --local-crops 2",
    "cam": "cam photos -m RUN -o out --scales 1 --device cpu",
    "refine": "refine CAMS --images photos -o out --overlays out-look --method par --device cpu --workers 1",
    "segtrain": f"segtrain photos --masks truth -o out --encoder stcl_tiny --no-pretrained {TINY} {MEASURED}",
    "predict": "predict photos -m SEG -o out --scales 1 --device cpu",
}
Files = dict[str, object]  # path -> content


class Counts:
    """Over the whole suite."""

    kills = lost = different = 0


def clean(folder: Path) -> None:
    for name in ("out", "out-look"):
        shutil.rmtree(folder / name, ignore_errors=True)


def contents(folder: Path) -> Files:
    """All files but the lock; the speed of a training is no part of its log."""
    found: Files = {}
    for path in sorted(path for name in ("out", "out-look") for path in (folder / name).rglob("*")):
        if path.is_file() and path.name != ".stcl-lock":
            found[str(path.relative_to(folder))] = path.read_bytes()
    if log := found.get("out/metrics.jsonl"):
        lines = [json.loads(line) for line in log.splitlines()]
        found["out/metrics.jsonl"] = [{k: v for k, v in line.items() if k != "photos_per_second"} for line in lines]
    return found


def check_what_is_there(folder: Path, stage: str, expected: Files) -> None:
    """Before it is resumed: a file is whole and what it will be in the end, or is not there."""
    for path in (folder / "out").rglob("[!.]*.*"):
        name = str(path.relative_to(folder))
        if stage in ("cam", "refine", "predict") and path.suffix in (".png", ".safetensors"):
            assert path.read_bytes() == expected[name], name
            read_mask(path) if path.suffix == ".png" else read_cam(path)
        elif path.name in ("config.json", "classes.txt"):
            assert path.read_bytes() == expected[name], name


def finish(folder: Path, stage: str, expected: Files) -> Ended:
    """Resume to the end, and compare."""
    ended = run(f"{COMMANDS[stage]} --resume", folder)
    assert ended.code == 3, ended.err
    compare(contents(folder), expected)
    return ended


def compare(left: Files, expected: Files) -> None:
    different = [name for name in expected.keys() & left.keys() if left[name] != expected[name]]
    Counts.lost += len(expected.keys() - left.keys())
    Counts.different += len(different)
    assert left.keys() == expected.keys()
    assert not different
