"""The config.json of any output folder, given back with --config, repeats the run; options override."""

import json
from pathlib import Path

import pytest
from click import Context
from click.testing import CliRunner
from safetensors.numpy import load_file

from stcl_cli.cli import main

NETWORK = "--backbone stcl_tiny --no-pretrained"
STEPS = "--iterations 2 --batch-size 2 --crop-size 32 --device cpu"
# Command -> (what is run first, an option that overrides one of its values, that value in config.json).
COMMANDS = {
    "train": (f"photos --labels labels.csv {NETWORK} {STEPS} --log-every 1 --top-share 0.5", "--lr 1e-4", {"lr": 1e-4}),
    "cam": ("photos -m run --labels labels.csv --scales 1 --scales 0.5", "--scales 1", {"scales": [1.0]}),
    "refine": (
        "cams --images photos --background 0.3 --background 0.5 --method par",
        "--method crf",
        {"method": "crf"},
    ),
    "segtrain": (f"photos --masks truth --init run {STEPS} --seed 3", "--seed 4", {"seed": 4}),
    "predict": ("photos -m seg --no-flip --list list.txt", "--list other.txt", {"list": "other.txt"}),
    "export": ("truth --to yolo --images photos", "--to voc", {"to": "voc"}),
    "run": (f"photos --labels labels.csv {NETWORK} {STEPS}", "--seed 1", {"seed": 1}),
    "demo": ("--seed 3", "--seed 4", {"seed": 4}),
}


@pytest.fixture
def stcl(trained, tmp_path, monkeypatch):
    """Run a command line in a folder with photos, labels.csv, two lists, truth, run, seg and cams."""
    from stcl_cli.stages import demo

    monkeypatch.chdir(tmp_path)
    for path in trained.root.iterdir():
        Path(path.name).symlink_to(path)
    Path("list.txt").write_text("a\n")
    Path("other.txt").write_text("c.v1\n")
    scenes = {"train": 4, "held_out": 1, "size": 48}
    training = {"iterations": 1, "batch_size": 2, "crop_size": 48}
    for name, value in {"SCENES": scenes, "TRAINING": training, "SECOND_STAGE": training}.items():
        monkeypatch.setattr(demo, name, value)

    def run(line):
        result = CliRunner().invoke(main, line.split(), catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return result

    run("cam photos -m run --labels labels.csv -o cams")
    return run


def contents(folder):
    """{path in it: what it holds}, without what names the folder itself and what clocks say."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or path.name == "config.json" or name.startswith("."):
            continue
        if path.name == "metrics.jsonl":
            records = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [record | {"photos_per_second": None} for record in records]
        elif path.parent.name == "checkpoints":
            found[name] = {key: value.tobytes() for key, value in load_file(path).items()}
        else:
            found[name] = path.read_bytes()
    return found


def config(folder):
    return json.loads(Path(folder, "config.json").read_text())


@pytest.mark.parametrize("command", COMMANDS)
def test_config_repeats_and_options_override(stcl, command):
    options, override, changed = COMMANDS[command]
    stcl(f"{command} {options} -o first")
    stcl(f"{command} --config first -o second")
    assert config("second") == config("first") | {"output": "second"}
    first, second = contents("first"), contents("second")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    stcl(f"{command} --config first/config.json -o third {override}")
    assert config("third") == config("first") | {"output": "third"} | changed
    assert contents("third") != first


def test_every_command_with_an_output_folder_is_here():
    with_output = {
        name for name, command in main.commands.items() if any(p.name == "overwrite" for p in command.params)
    }
    assert COMMANDS.keys() == with_output
    assert all(
        ("--config" in command.get_help(Context(command))) is (name in COMMANDS)
        for name, command in main.commands.items()
    )
