"""docs/commands.md and docs/figures.md: every command has its examples, and all of them run, in their order."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from stcl_cli.cli import main
from stcl_cli.evaluation.metrics import confusion_matrix, iou_per_class, mean_iou

DOCS = Path(__file__).parent.parent / "docs"
COMMANDS, FIGURES = ((DOCS / name).read_text("utf-8") for name in ("commands.md", "figures.md"))
BLOCKS = re.findall(r"^```sh\n(.*?)^```", COMMANDS + FIGURES, re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]

# What makes an example quick: of an option that is given twice the last one counts.
STEPS = "--iterations 1 --batch-size 2 --crop-size 32 --device cpu --no-pretrained"
QUICK = {"train": f"{STEPS} --backbone stcl_tiny", "run": f"{STEPS} --backbone stcl_tiny", "segtrain": STEPS}
QUICK["bench"] = "--backbone stcl_tiny --crop-size 32 --batch-size 2 --photos 8 --device cpu --amp off"


@pytest.fixture
def place(trained, tmp_path, monkeypatch):
    """A folder with what the examples start from."""
    from stcl_cli.stages import demo

    monkeypatch.chdir(tmp_path)
    for name, path in {"photos": "photos", "true_masks": "truth"}.items():
        shutil.copytree(trained.root / path, name)
    shutil.copy(trained.root / "labels.csv", "labels.csv")
    Path("train.txt").write_text("a\nsub dir/bär 01\n")
    Path("val.txt").write_text("sub dir/c.v1\n")
    training = {"iterations": 1, "batch_size": 2, "crop_size": 48}
    for name, value in {"TRAINING": training, "SECOND_STAGE": training}.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "SCENES", {"train": 4, "held_out": 1, "size": 48})


def run(line):
    """(exit code, stdout, stderr) of a line; in this process, which is quicker, unless it needs a shell."""
    if re.search(r"[|&;$]", line):
        cases = " ".join(f'{name}) quick="{options}" ;;' for name, options in QUICK.items())
        stcl = f'stcl() {{ quick=; case "$1" in {cases} esac; "{sys.executable}" -m stcl_cli "$@" $quick; }}; '
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        result = subprocess.run(["bash", "-c", f"set -eo pipefail; {stcl}{line}"], capture_output=True, env=environment)
        return result.returncode, result.stdout, result.stderr
    _, *words = shlex.split(line)
    words += shlex.split(QUICK.get(words[0], "")) + (["--encoder", "resnet18"] if "--arch" in words else [])
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    return result.exit_code, result.stdout_bytes, result.stderr


def test_every_example_runs(place):
    for line in LINES:
        if "jq" in line and not shutil.which("jq"):
            continue
        code, out, err = run(line)
        assert code == 0, f"{line}\n{err}"
        if not re.search(r"stcl (train|segtrain|check)", line) or "--json" in line:
            assert out, line
    assert Path("stcl-demo/overview.png").is_file()
    assert Path("look/sub dir/bär 01.jpg").is_file()


def test_every_command_has_its_examples_and_its_row():
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", COMMANDS, re.MULTILINE | re.DOTALL))
    for command in main.commands:
        assert f"\nstcl {command}" in sections[command], f"docs/commands.md: no example of stcl {command}"
        assert f"| [{command}](#{command}) |" in COMMANDS


def test_the_example_of_miou_is_right():
    rows = [re.search(rf"^{row} +(.*)$", FIGURES, re.MULTILINE)[1].split() for row in ("truth", "prediction")]
    truth, predicted = (np.array([row], int) for row in rows)
    counted, left_out = (confusion_matrix(truth, predicted, 3, ignore_predictions=ignored) for ignored in (False, True))
    assert iou_per_class(counted).tolist() == [0.5, 0.75, 0.5]
    assert (round(mean_iou(counted), 3), mean_iou(left_out)) == (0.583, 0.75)
    assert "Background 1 of 2 pixels, 0.5. Cat 3 of 4" in FIGURES
    assert "Dog 1 of 2, 0.5. mIoU 0.583; with" in FIGURES
