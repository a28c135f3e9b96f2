import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from stcl_cli import config, console
from stcl_cli.cli import main
from stcl_cli.errors import StclError
from stcl_cli.formats.runs import append_jsonl, write_config

CONFIGS = {
    "run": config.RunConfig,
    "train": config.TrainConfig,
    "cam": config.CamConfig,
    "refine": config.RefineConfig,
    "segtrain": config.SegtrainConfig,
    "predict": config.PredictConfig,
    "export": config.ExportConfig,
    "eval": config.EvalConfig,
    "report": config.ReportConfig,
    "bench": config.BenchConfig,
    "demo": config.DemoConfig,
}
TRAIN = ["train", "photos", "--labels", "labels.csv", "-o", "run"]


class Stage:
    """Stands in for the stage modules: keeps the config, and does what it is told."""

    def __init__(self, monkeypatch):
        self.summary, self.skipped, self.next, self.error, self.config = None, 0, (), None, None
        for name in (*CONFIGS, "evaluate"):
            monkeypatch.setitem(sys.modules, f"stcl_cli.stages.{name}", SimpleNamespace(run=self._run))

    def _run(self, given, done=None):
        self.config = given
        if self.error:
            raise self.error
        return SimpleNamespace(summary=self.summary, skipped=self.skipped, next=self.next)

    def __call__(self, *arguments):
        return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def stcl(monkeypatch):
    return Stage(monkeypatch)


def test_help_is_instant_because_nothing_heavy_is_imported():
    code = "import sys, stcl_cli.cli; print({'torch', 'timm', 'cv2', 'numpy', 'PIL', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_runs_as_a_module():
    result = subprocess.run([sys.executable, "-m", "stcl_cli", "--version"], capture_output=True, text=True)
    assert result.stdout.startswith("stcl, version ")


@pytest.mark.parametrize("command", CONFIGS)
def test_help_names_every_option(stcl, command):
    text = stcl(command, "--help").output
    for field in dataclasses.fields(CONFIGS[command]):
        name = field.name.upper() if field.metadata.get("positional") else "--" + field.name.replace("_", "-")
        assert name in text, name
    assert main.commands[command].help


def test_help_lists_the_commands_in_the_order_of_the_chain_and_cuts_none_short():
    listed = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["--help"]).output.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == list(main.commands)
    assert all(line.endswith(".") and not line.endswith("..") for line in listed), listed


def test_defaults_are_those_of_the_config(stcl):
    assert stcl(*TRAIN).exit_code == 0
    assert stcl.config == config.TrainConfig(images="photos", labels="labels.csv", output="run")


def test_options_of_every_kind(stcl):
    stcl(*TRAIN, "--lr", "1e-3", "--workers", 2, "--no-pretrained", "--resume", "--amp", "off", "--rescale", 1, 1.5,
         "--cam-scales", 1, "--cam-scales", 2, "--aux-layer", -1)  # fmt: skip
    assert stcl.config == config.TrainConfig(
        images="photos", labels="labels.csv", output="run", lr=1e-3, workers=2, pretrained=False, resume=True,
        amp="off", rescale=(1.0, 1.5), cam_scales=(1.0, 2.0), aux_layer=-1,
    )  # fmt: skip


def test_what_a_command_line_takes_a_file_takes_too(tmp_path):
    """A training with a seed of nanoseconds could not be read again."""
    seeded = config.TrainConfig(images="photos", labels="labels.csv", output="run", seed=1_795_873_584_694_377_721)
    config.check_values(seeded)
    for wrong in (["--seed", str(10**20)], ["--scales", "1e20"]):
        command = "train" if wrong[0] == "--seed" else "cam"
        needed = ["--labels", "x.csv"] if command == "train" else ["-m", "run"]
        ended = CliRunner().invoke(main, [command, "photos", *needed, "-o", str(tmp_path / "out"), *wrong])
        assert ended.exit_code == 2
        assert f"{wrong[0][2:]} is " in ended.output
        assert "which it cannot be" in ended.output


@pytest.mark.parametrize(
    "wrong", [["--lr", "0"], ["--seed", "-1"], ["--save-every", "0"], ["--rescale", "0", "1"], ["--amp", "fp8"], ["x"]]
)
def test_wrong_usage(stcl, wrong):
    result = stcl(*TRAIN, *wrong)
    assert result.exit_code == 2
    assert stcl.config is None


def test_config_repeats_a_run_and_options_override(stcl, tmp_path):
    first = config.TrainConfig(
        images="photos", labels="labels.csv", output="run", seed=3, cam_scales=(1.0, 2.0), rescale=(1.0, 1.5),
        pretrained=False, local_crop_size=32, val_masks="truth",
    )  # fmt: skip
    write_config(tmp_path, "train", {k: v for k, v in vars(first).items() if k not in ("resume", "overwrite")})
    for path in (tmp_path, tmp_path / "config.json"):
        assert stcl("train", "--config", path).exit_code == 0
        assert stcl.config == first
    result = stcl(
        "train", "others", "--seed", 4, "--config", tmp_path, "--pretrained", "--cam-scales", 1, "--overwrite"
    )
    assert result.exit_code == 0
    assert stcl.config == dataclasses.replace(
        first, images="others", seed=4, pretrained=True, cam_scales=(1.0,), overwrite=True
    )


def test_what_a_config_switched_on_can_be_switched_off(stcl, tmp_path):
    """A run of a GPU is repeated without one."""
    write_config(tmp_path, "train", {"images": "photos", "labels": "l", "output": "o", "compile": True})
    assert stcl("train", "--config", tmp_path).exit_code == 0
    assert stcl.config.compile
    assert stcl("train", "--config", tmp_path, "--no-compile").exit_code == 0
    assert not stcl.config.compile


def test_a_config_that_does_not_fit(stcl, tmp_path):
    write_config(tmp_path, "train", {"images": "photos", "dropout": 0.5})
    for command, reason in {"segtrain": "was made by stcl train", "train": "holds 'dropout'"}.items():
        result = stcl(command, "--config", tmp_path)
        assert result.exit_code == 2
        assert reason in result.stderr
    write_config(tmp_path, "train", {"images": "photos", "labels": "l", "output": "o", "lr": "fast"})
    assert "lr is 'fast', which it cannot be" in stcl("train", "--config", tmp_path).stderr
    write_config(tmp_path, "cam", {"images": "photos", "model": "m", "output": "o", "as_json": []})
    assert "holds 'as_json'" in stcl("cam", "--config", tmp_path).stderr
    for wrong in ([], {"a": 1}, 7):  # a list was a traceback of click's
        write_config(tmp_path, "train", {"images": wrong, "labels": "l", "output": "o"})
        result = stcl("train", "--config", tmp_path)
        assert result.exit_code == 2
        assert f"images is {wrong}, which it cannot be" in result.stderr
    (tmp_path / "config.json").write_text("{")
    assert "is not JSON" in stcl("train", "--config", tmp_path).stderr
    assert stcl("train", "--config", tmp_path / "gone").exit_code == 2


def test_an_error_of_the_user_is_one_line_and_a_bug_keeps_its_traceback(stcl):
    stcl.error = StclError("photos: is not there; give a folder")
    result = stcl(*TRAIN)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "stcl: photos: is not there; give a folder\n"
    stcl.error = ZeroDivisionError()
    assert isinstance(stcl(*TRAIN).exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("kind", "words", "line"),
    [
        (MemoryError, "", "out of memory"),
        (
            torch.cuda.OutOfMemoryError,
            "CUDA out of memory. Tried to allocate 8.00 GiB. GPU 0\nmany lines",
            "CUDA out of memory",
        ),
        (RuntimeError, "CUDA error: out of memory\nCUDA kernel errors. Might", "CUDA error: out of memory"),
        (RuntimeError, "[enforce fail] DefaultCPUAllocator: can't allocate memory", "out of memory"),
    ],
)
def test_too_little_memory_is_one_line_with_the_cure(stcl, kind, words, line):
    stcl.error = kind(words)
    result = stcl(*TRAIN)
    assert result.exit_code == 1
    sizes = "--batch-size, --crop-size, --max-side, --workers"
    assert result.stderr == f"stcl: {line}; take less at a time with {sizes}, or try another --device\n"


@pytest.mark.parametrize(
    "words",
    [
        TRAIN,
        ["cam", "photos", "-m", "run", "-o", "cams"],
        ["refine", "cams", "--images", "photos", "-o", "masks"],
        ["eval", "masks", "--truth", "truth"],
        ["demo"],
    ],
)
def test_the_cure_for_too_little_memory_is_in_options_of_the_command(stcl, words):
    stcl.error = MemoryError()
    named = set(re.findall(r"--[a-z-]+", stcl(*words).stderr))
    assert named <= {flag for option in main.commands[words[0]].params for flag in option.opts}
    assert bool(named) == (words[0] not in ("eval", "demo"))


def test_help_says_what_the_arguments_are(stcl):
    assert "or - for stdin" in " ".join(stcl("cam", "--help").output.split())
    assert "MASKS: Folder of masks." in stcl("export", "--help").output


def test_the_summary_is_one_line_of_json_on_stdout(stcl):
    stcl.summary = {"miou": float("nan"), "per_class": {"bär": 0.5}}
    result = stcl("eval", "masks", "--truth", "truth")
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout) == {"miou": None, "per_class": {"bär": 0.5}}


def test_skipped_inputs_show_in_the_exit_code(stcl):
    stcl.summary, stcl.skipped = {}, 2
    result = stcl("eval", "masks", "--truth", "truth")
    assert (result.exit_code, result.stdout) == (3, "{}\n")


@pytest.mark.parametrize("names", [("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")])
def test_of_processes_that_were_started_together_none_ends_with_a_code_that_ends_the_others(stcl, monkeypatch, names):
    stcl.skipped = 2
    for name, value in zip(names, "12", strict=True):
        monkeypatch.setenv(name, value)
    assert stcl("cam", "photos", "-m", "run", "-o", "cams").exit_code == 0
    monkeypatch.setenv(names[0], "0")
    monkeypatch.setenv(names[1], "1")
    assert stcl("cam", "photos", "-m", "run", "-o", "cams").exit_code == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no /dev/full")
def test_a_full_disk_behind_stdout_is_one_line(tmp_path):
    Image.new("RGB", (2, 2), "white").save(tmp_path / "a.png")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "stcl_cli", "check", str(tmp_path), "--json", "-q"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "stcl: stdout: cannot be written (No space left on device); free some space, or send it elsewhere"
    ]


@pytest.fixture
def items(monkeypatch, tmp_path):
    """A stage that finishes two items, one with a name that is no Unicode, and says something in every tone."""
    monkeypatch.chdir(tmp_path)
    append_jsonl("MASKS/failed.jsonl", {})

    def run(given, done):
        from stcl_cli import console

        console.say("said")
        console.detail("detailed")
        console.warn("warned")
        done({"image": "bär 1", "output": Path("MASKS", "bär 1.png"), "ignored": 0.5})
        done({"image": "x\udcff", "output": Path("MASKS", "x\udcff.png")})
        return SimpleNamespace(summary=None, skipped=1, next=())

    monkeypatch.setitem(sys.modules, "stcl_cli.stages.predict", SimpleNamespace(run=run))
    return lambda *options: CliRunner().invoke(
        main, [*options, "predict", "photos", "-m", "SEG", "-o", "MASKS"], catch_exceptions=False
    )


def test_each_item_is_a_line_with_its_path(items):
    result = items()
    assert result.stdout_bytes == "MASKS/bär 1.png\n".encode() + b"MASKS/x\xff.png\n"
    assert result.exit_code == 3


def test_json_makes_it_an_object(monkeypatch, items):
    result = CliRunner().invoke(main, ["predict", "photos", "-m", "SEG", "-o", "MASKS", "--json"])
    first, second = map(json.loads, result.stdout_bytes.splitlines())
    assert first == {"image": "bär 1", "output": "MASKS/bär 1.png", "ignored": 0.5}
    assert second["image"] == "x\udcff"


@pytest.mark.parametrize(
    ("options", "tones"), [([], "said"), (["-q"], ""), (["--quiet"], ""), (["-v"], "said detailed")]
)
def test_quiet_and_verbose(items, options, tones):
    lines = items(*options).stderr.splitlines()
    assert [line for line in lines if line in ("said", "detailed")] == tones.split()
    assert lines[-2:] == ["stcl: warned", "stcl: 1 input was skipped; MASKS/failed.jsonl says why"]
    assert ("-v" in options) is lines[0].startswith('stcl 0.1.0 predict {"resume": false')


def test_quiet_may_stand_behind_the_command(items):
    result = CliRunner().invoke(main, ["predict", "photos", "-m", "SEG", "-o", "MASKS", "-q"])
    assert "said" not in result.stderr
    assert "said" in items().stderr  # the next command speaks again


@pytest.mark.parametrize("started", [True, False])
def test_ctrl_c_says_how_to_go_on(stcl, tmp_path, started):
    stcl.error = KeyboardInterrupt()
    if started:
        write_config(tmp_path / "my run", "train", {})
    result = stcl("train", "photos", "--labels", "labels.csv", "-o", tmp_path / "my run")
    go_on = f"; its files are whole, go on with: stcl train --config '{tmp_path / 'my run'}' --resume"
    assert (result.exit_code, result.stderr) == (130, f"stcl: stopped{go_on if started else ''}\n")
    result = stcl("train", "-", "--labels", "labels.csv", "-o", tmp_path / "my run")
    assert result.stderr.endswith("--resume, with the same list on stdin\n") is started


def test_ctrl_c_of_one_of_several_processes(stcl, tmp_path, monkeypatch):
    stcl.error = KeyboardInterrupt()
    write_config(tmp_path, "cam", {})
    result = stcl("cam", "photos", "-m", "run", "-o", tmp_path, "--shard", "2/3")
    assert result.stderr.endswith(f"go on with: stcl cam --config {tmp_path} --resume --shard 2/3\n")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = stcl("train", "photos", "--labels", "labels.csv", "-o", tmp_path)
    assert result.stderr.endswith(f"start as many processes of: stcl train --config {tmp_path} --resume\n")


def test_stcl_run_goes_on_without_resume(stcl, tmp_path):
    stcl.error = KeyboardInterrupt()
    write_config(tmp_path, "run", {})
    result = stcl("run", "photos", "--labels", "labels.csv", "-o", tmp_path)
    assert result.stderr == f"stcl: stopped; its files are whole, go on with: stcl run --config {tmp_path}\n"


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("moment", "line"),
    [
        ("say", "stcl: stopped; its files are whole, go on with: stcl cam --config RUN --resume\n"),  # it has ended
        (  # and is leaving
            "signal",
            "next: stcl refine RUN\nstcl: stopped; its files are whole, go on with: stcl cam --config RUN --resume\n",
        ),
        ("set_verbosity", "stcl: stopped\n"),  # it has not begun
    ],
)
def test_ctrl_c_before_and_after_the_work_is_one_line_too(stcl, tmp_path, monkeypatch, moment, line):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "RUN", "cam", {})
    stcl.next = ("refine", "RUN")
    if moment == "signal":
        calls = iter([lambda *_: signal.SIG_DFL, interrupt])
        monkeypatch.setattr(signal, "signal", lambda *arguments: next(calls)(*arguments))
    else:
        monkeypatch.setattr(console, moment, interrupt)
    result = stcl("cam", "photos", "-m", "run", "-o", "RUN")
    assert (result.exit_code, result.stderr) == (130, line)


def test_the_next_command_can_be_copied(stcl):
    stcl.next = ("refine", Path("my cams"), "--images", "-", "-o", "MASKS")
    result = stcl("cam", "-", "-m", "run", "-o", "my cams")
    assert (result.stdout, result.stderr) == ("", "next: stcl refine 'my cams' --images PHOTOS -o MASKS\n")
    assert stcl("-q", "cam", "-", "-m", "run", "-o", "my cams").stderr == ""


def test_any_number_of_folders_but_one_at_least(stcl):
    assert stcl("report", "RUN", "my cams", "-o", "r.html").exit_code == 0
    assert stcl.config == config.ReportConfig(folders=("RUN", "my cams"), output="r.html")
    assert stcl("report").exit_code == 2


def test_only_a_log_that_is_there_is_named(stcl):
    stcl.skipped = 1
    assert stcl("report", "RUN").stderr == "stcl: 1 input was skipped\n"


def test_any_of_the_stages_or_none_to_measure(stcl):
    assert stcl("bench", "cam", "train", "--photos", "8").exit_code == 0
    assert stcl.config == config.BenchConfig(what=("cam", "train"), photos=8)
    assert stcl("bench").exit_code == 0
    assert stcl.config.what == ()
    result = stcl("bench", "export")
    assert result.exit_code == 2
    assert "'train', 'cam', 'refine', 'segtrain', 'predict'" in result.output


def test_processes_started_together_do_not_print_frames_of_c(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL", raising=False)
    CliRunner().invoke(main, ["check", str(tmp_path)])
    assert "TORCH_CPP_LOG_LEVEL" not in os.environ
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    CliRunner().invoke(main, ["check", str(tmp_path)])
    assert os.environ["TORCH_CPP_LOG_LEVEL"] == "ERROR"
