"""The scripts in examples/, with a stand-in for `stcl` that says how it was called."""

import os
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
STAGES = ["train", "cam", "refine", "segtrain", "predict"]
SCRIPTS = {
    "own_folder.sh": ["photos", "labels.csv", "out"],
    "voc.sh": ["VOC2012", "out"],
    "coco.sh": ["COCO", "out"],
    "slurm.sh": ["photos", "labels.csv", "out"],
}


@pytest.fixture
def called(tmp_path):
    """Runs a script in an empty folder: its exit code, and the calls of stcl. Each call ends with `code`."""

    def run(script, code=0, of="train cam refine segtrain predict"):
        programs = {
            "stcl": f'echo "$@" >> {tmp_path}/calls; case " {of} " in *" $1 "*) exit {code};; esac',
            "srun": 'shift; "$@"',
            "scontrol": "echo node1",
        }
        for name, text in programs.items():
            path = tmp_path / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"#!/bin/sh\n{text}\n")
            path.chmod(0o755)
        env = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
        env |= {"SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_ID": "7"}
        command = ["bash", str(EXAMPLES / script), *SCRIPTS[script]]
        result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        return result.returncode, (tmp_path / "calls").read_text().splitlines()

    return run


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("code", [0, 3])  # 3: some photos were skipped
def test_all_stages_in_their_order_each_going_on_where_it_stopped(called, script, code):
    ended, calls = called(script, code)
    assert ended == 0
    stages = [call.split() for call in calls if not call.startswith("eval ")]
    assert [stage[0] for stage in stages] == STAGES
    assert all(stage[-1] == "--resume" for stage in stages)


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_error_ends_it(called, script):
    ended, calls = called(script, 1, of="refine")
    assert ended == 1
    assert [call.split()[0] for call in calls] == STAGES[:3]
