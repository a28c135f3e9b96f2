"""The command line as a shell meets it: pipes, terminals, Ctrl-C."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stcl_cli.formats.masks import read_mask

STCL = Path(sys.executable).with_name("stcl")
SHELL = f'set -eo pipefail; stcl() {{ "{sys.executable}" -m stcl_cli "$@"; }}; '


@pytest.fixture
def shell(trained, tmp_path):
    """Run bash in a folder that holds photos, RUN, SEG and TRUTH."""
    for name, path in {"photos": "photos", "RUN": "run", "SEG": "seg", "TRUTH": "truth"}.items():
        (tmp_path / name).symlink_to(trained.root / path)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}

    def run(command: str, **settings) -> subprocess.Popen:
        settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment} | settings
        return subprocess.Popen(["bash", "-c", SHELL + command], cwd=tmp_path, **settings)

    return run


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=600)
    return process.returncode, out.decode(), err.decode()


def test_from_find_to_masks(shell, tmp_path):
    code, out, err = finished(
        shell(
            "find photos/ -name '*.jpg' | stcl cam - -m RUN -o CAMS "
            "&& stcl -q refine CAMS --images photos -o MASKS --method none --overlays LOOK"
        )
    )
    assert code == 0, err
    assert out.splitlines() == [
        "CAMS/photos/a.safetensors",
        "CAMS/photos/sub dir/bär 01.safetensors",
        "CAMS/photos/sub dir/c.v1.safetensors",
        "MASKS/a.png",
        "MASKS/sub dir/bär 01.png",
        "MASKS/sub dir/c.v1.png",
    ]
    assert all((tmp_path / line).is_file() for line in out.splitlines())
    assert "3 CAMs in CAMS\nnext: stcl refine CAMS --images PHOTOS -o MASKS\n" in err
    assert "masks in" not in err  # -q
    assert "\x1b" not in err  # no terminal: no bar, no colours


def test_json_lines_into_a_reader_that_stops_early(shell):
    read_one = f'"{sys.executable}" -c "print(input())"'
    code, out, err = finished(shell(f"stcl -q predict photos -m SEG -o PRED --json | {read_one} || true"))
    assert json.loads(out)["image"] == "a"
    assert (code, err) == (0, "")


@pytest.mark.skipif(not shutil.which("jq"), reason="needs jq")
def test_eval_into_jq(shell):
    code, out, _ = finished(shell("stcl eval TRUTH --truth TRUTH | jq .miou"))
    assert code == 0
    assert float(out) == 1.0


def test_a_bar_on_the_terminal_and_items_in_the_pipe(shell):
    ours, theirs = pty.openpty()
    process = shell("stcl cam photos -m RUN -o CAMS", stderr=theirs)
    os.close(theirs)
    out, _ = process.communicate(timeout=600)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    assert out.decode().splitlines()[0] == "CAMS/a.safetensors"
    assert "━".encode() in shown
    assert b"a.safetensors" not in shown


@pytest.mark.parametrize("terminal", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colour_and_simple_terminals_are_obeyed(shell, monkeypatch, terminal):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm"} | terminal).items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    process = shell("stcl eval TRUTH --truth TRUTH", stderr=theirs, env=os.environ | {"OMP_NUM_THREADS": "1"})
    os.close(theirs)
    process.communicate(timeout=600)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    assert b"background" in shown
    assert bool(re.search(rb"\x1b\[[0-9;]*3[0-9]m", shown)) is not bool(terminal)  # a colour
    assert (b"\x1b" in shown) is ("TERM" not in terminal)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # its other end is closed
        return b""


def test_ctrl_c_leaves_whole_files_and_says_how_to_go_on(shell, tmp_path):
    many = tmp_path / "many"
    many.mkdir()
    for number in range(200):
        os.link(tmp_path / "photos" / "a.jpg", many / f"{number:03}.jpg")
    cams, masks = f"CA MS {'x' * 40}", f"MASKS-{'x' * 40}"
    # A pipe that holds some 80 of these names: nobody is done with all before Ctrl-C comes.
    process = shell(
        f"exec '{sys.executable}' -m stcl_cli -q cam many -m RUN -o '{cams}'",
        pipesize=4096,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where tests run in the background it is off
    )
    assert process.stdout.readline() == f"{cams}/000.safetensors\n".encode()
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process)
    assert code == 130
    assert err == f"stcl: stopped; its files are whole, go on with: stcl cam --config '{cams}' --resume\n"
    files = [path.name for path in Path(tmp_path, cams).iterdir()]
    assert len(files) < 200
    assert not [name for name in files if name.endswith(".tmp")]
    code, out, err = finished(shell(f"stcl -q cam --config '{cams}' --resume"))
    assert (code, err) == (0, "")
    assert 0 < out.count("\n") < 200  # what was done is not done again
    assert len(list(Path(tmp_path, cams).glob("*.safetensors"))) == 200

    process = shell(
        f"exec '{sys.executable}' -m stcl_cli -q refine '{cams}' --images many -o {masks} --method none --workers 2",
        pipesize=4096,
        preexec_fn=lambda: (os.setsid(), signal.signal(signal.SIGINT, signal.SIG_DFL)),
    )
    assert process.stdout.readline() == f"{masks}/000.png\n".encode()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers are told, too
    code, _, err = finished(process)
    line = f"stcl: stopped; its files are whole, go on with: stcl refine --config {masks} --resume\n"
    assert (code, err) == (130, line)
    assert all(read_mask(path).shape == (40, 56) for path in Path(tmp_path, masks).glob("*.png"))
    assert not list(Path(tmp_path, masks).glob(".*.tmp"))


@pytest.mark.skipif(not STCL.exists(), reason="the script is not installed")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("stcl ref", "refine"),
        ("stcl export masks --to c", "coco cvat"),
        ("stcl refine cams --met", "--method"),
        ("stcl train ph", "photos"),
        ("stcl refine cams --images ph", "photos"),
        ("stcl predict --config RU", "RUN"),
    ],
)
def test_completion_in_bash(shell, words, completed):
    """As docs/commands.md says: bash asks the function that click wrote; for paths it looks itself where told to."""
    process = shell(
        f'PATH="{STCL.parent}:$PATH"; unset -f stcl; compopt() {{ kind=$2; }}; '
        'eval "$(_STCL_COMPLETE=bash_source stcl)"; '
        f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _stcl_completion stcl; "
        'echo "${COMPREPLY[@]}" "${kind:+$(compgen -f "${COMP_WORDS[-1]}")}"'
    )
    assert finished(process)[1].split() == completed.split()


def test_one_command_for_all_of_it(shell, tmp_path):
    (tmp_path / "labels.csv").write_text("a,cat\nsub dir/bär 01,cat;dog\nsub dir/c.v1,dog\n")
    command = (
        "find photos/ -name '*.jpg' | stcl run - --labels labels.csv -o 'my out' --backbone stcl_tiny --no-pretrained "
        "--iterations 1 --batch-size 1 --crop-size 32 --device cpu"
    )
    code, out, err = finished(shell(command))
    assert code == 0, err
    assert out.splitlines() == [f"my out/predictions/photos/{n}.png" for n in ("a", "sub dir/bär 01", "sub dir/c.v1")]
    assert [line for line in err.splitlines() if line.startswith(("stage", "next"))] == [
        "stage 1 of 5: train -> my out/run",
        "stage 2 of 5: cam -> my out/cams",
        "stage 3 of 5: refine -> my out/masks",
        "stage 4 of 5: segtrain -> my out/seg",
        "stage 5 of 5: predict -> my out/predictions",
        "next: stcl report 'my out'",
    ]
    code, out, err = finished(shell(command + " -q"))
    assert (code, out, err) == (0, "", "")  # nothing left to do
