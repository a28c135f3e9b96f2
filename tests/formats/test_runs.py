import json
import os
import resource
from pathlib import Path

import pytest

import stcl_cli
from stcl_cli.errors import StclError
from stcl_cli.formats import runs
from stcl_cli.formats.files import LOCK
from stcl_cli.runtime.launch import Shard


@pytest.fixture
def ours(tmp_path):
    folder = tmp_path / "out"
    runs.open_output(folder)
    runs.write_config(folder, "refine", {"images": Path("photos"), "low": 0.3})
    (folder / "sub").mkdir()
    (folder / "sub" / "x.png").touch()
    return folder


def test_a_new_folder_and_an_empty_one(tmp_path):
    for _ in range(2):
        assert runs.open_output(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / ".stcl-0.tmp").touch()  # left by a killed run
    assert runs.open_output(tmp_path / "a" / "b")
    assert os.listdir(tmp_path / "a" / "b") == [LOCK]


def test_what_a_killed_run_left_half_written_is_deleted(ours):
    temporary = ours / "sub" / f".stcl-{'0' * 32}.tmp"
    inner = ours / "run" / ".stcl-1.tmp"  # of an output folder inside: a matter of whoever is at work there
    for path in (temporary, inner, inner.with_name(LOCK)):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with pytest.raises(StclError, match="is not empty"):
        runs.open_output(ours)
    assert temporary.exists()
    runs.open_output(ours, resume=True)
    assert not temporary.exists()
    assert inner.exists()
    assert (ours / "sub" / "x.png").exists()


def test_a_shard_needs_no_resume_and_must_not_wipe(ours):
    shard = Shard(2, 3)
    assert runs.open_output(ours, shard=shard)
    with pytest.raises(StclError, match="--overwrite would delete the other shards' files"):
        runs.open_output(ours, overwrite=True, shard=shard)
    assert (ours / "sub" / "x.png").exists()


def test_a_folder_in_use_is_refused(ours):
    with pytest.raises(StclError, match=r"out: is not empty; give --resume, --overwrite"):
        runs.open_output(ours)
    with pytest.raises(StclError, match="exclude each other"):
        runs.open_output(ours, resume=True, overwrite=True)
    with pytest.raises(StclError, match=r"x.png: is a file; give a folder with -o"):
        runs.open_output(ours / "sub" / "x.png")


def test_resume_keeps_and_overwrite_empties(ours):
    runs.open_output(ours, resume=True)
    assert (ours / "sub" / "x.png").exists()
    runs.open_output(ours, overwrite=True)
    assert os.listdir(ours) == [LOCK]


def test_overwrite_does_not_follow_links(ours, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (ours / "link").symlink_to(tmp_path / "photos")
    (ours / "file").symlink_to(tmp_path / "photos" / "a.jpg")
    runs.open_output(ours, overwrite=True)
    assert os.listdir(ours) == [LOCK]
    assert (tmp_path / "photos" / "a.jpg").exists()


@pytest.mark.parametrize("config", [None, "{}", '{"command": "x"}', "[1]", "no json"])
def test_a_folder_of_somebody_else_is_never_wiped(tmp_path, config):
    (tmp_path / "a.jpg").touch()
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    before = sorted(os.listdir(tmp_path))
    for options in ({"overwrite": True}, {"resume": True}, {"shard": Shard(1, 2)}):
        with pytest.raises(StclError, match=r"no config.json of stcl"):
            runs.open_output(tmp_path, **options)
    assert sorted(os.listdir(tmp_path)) == before


def test_an_interrupted_overwrite_leaves_it_ours(ours, monkeypatch):
    (ours / "z").mkdir()
    monkeypatch.setattr(runs.shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        runs.open_output(ours, overwrite=True)
    assert runs.made_by_stcl(ours)


@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}])
def test_an_interrupted_overwrite_is_ended_by_the_next_to_come(ours, monkeypatch, options):
    """Else what was to go would be taken for its own."""
    (ours / "a.png").touch()
    with monkeypatch.context() as patched:
        patched.setattr(runs.shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            runs.open_output(ours, overwrite=True)
    assert (ours / "sub" / "x.png").exists()
    runs.open_output(ours, **options)
    assert os.listdir(ours) == [LOCK]


def test_a_folder_is_looked_at_without_a_trace(ours, tmp_path):
    runs.check_usable(tmp_path / "new", False, "-o")
    runs.check_usable(ours, True, "-o")
    with pytest.raises(StclError, match="is not empty; give --resume, --overwrite or another folder with --overlays"):
        runs.check_usable(ours, False, "--overlays")
    assert not (tmp_path / "new").exists()


def test_config_round_trip(ours):
    written = json.loads((ours / "config.json").read_text())
    assert written == {"command": "refine", "stcl": stcl_cli.__version__, "images": "photos", "low": 0.3}
    assert runs.read_sources(ours) == {}
    runs.write_config(ours, "refine", {"images": "photos", "low": 0.3}, {"cams": "01234567"})
    assert runs.read_sources(ours) == {"cams": "01234567"}
    assert runs.read_config(ours)[1] == {"images": "photos", "low": 0.3}
    for path in (ours, ours / "config.json"):
        assert runs.read_config(path) == ("refine", {"images": "photos", "low": 0.3})
        assert runs.read_config(path, "refine") == ("refine", {"images": "photos", "low": 0.3})


def test_config_of_another_command(ours, tmp_path):
    with pytest.raises(StclError, match=r"out: was made by stcl refine; give an output folder of stcl train"):
        runs.read_config(ours, "train")
    with pytest.raises(StclError, match=r"none: is not there; give an output folder of stcl train"):
        runs.read_config(tmp_path / "none", "train")
    with pytest.raises(StclError, match=r"has no config.json"):
        runs.read_config(tmp_path, "train")
    (tmp_path / "config.json").write_text('{"command": 3, "stcl": "1"}')
    with pytest.raises(StclError, match=r"config.json: was not written by stcl"):
        runs.read_config(tmp_path)


def test_jsonl_appends_whole_lines(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    assert runs.read_jsonl(path) == []
    runs.append_jsonl(path, {"step": 1, "loss": float("nan")})
    runs.append_jsonl(path, {"step": 2, "name": "bär\n"})
    assert path.read_bytes().count(b"\n") == 2
    assert runs.read_jsonl(path) == [{"step": 1, "loss": None}, {"step": 2, "name": "bär\n"}]


@pytest.mark.parametrize("half", ['{"step": 2', "x"])
def test_half_a_line_of_a_killed_run(tmp_path, half):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + half)
    assert runs.read_jsonl(path) == [{"step": 1}]
    runs.append_jsonl(path, {"step": 3})
    assert runs.read_jsonl(path) == [{"step": 1}, {"step": 3}]
    path.write_text(half)
    runs.append_jsonl(path, {"step": 3})
    assert runs.read_jsonl(path) == [{"step": 3}]


def test_jsonl_errors(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("{}\n[]\n")
    with pytest.raises(StclError, match=r"x.jsonl line 2"):
        runs.read_jsonl(path)
    with pytest.raises(StclError, match="cannot be written"):
        runs.append_jsonl(tmp_path, {})
    with pytest.raises(StclError, match="cannot be read"):
        runs.read_jsonl(tmp_path)


def test_jsonl_on_a_full_disk(tmp_path):
    path = tmp_path / "x.jsonl"
    runs.append_jsonl(path, {"step": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(StclError, match=r"x.jsonl: cannot be written .*; free some space"):
            runs.append_jsonl(path, {"text": "x" * (1 << 20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert runs.read_jsonl(path) == [{"step": 1}]


def test_failures(tmp_path):
    failures = runs.Failures(tmp_path)
    assert not failures
    assert not failures.path.exists()
    failures.add("a", StclError("why"))
    failures.add("bär", "empty")
    failures.add("a", "met again in the next epoch")
    assert len(failures) == 2
    assert runs.read_jsonl(tmp_path / "failed.jsonl") == [
        {"image": "a", "reason": "why"},
        {"image": "bär", "reason": "empty"},
    ]
    kept = runs.Failures(tmp_path, keep=("a", "bär"))
    kept.add("bär", "empty, still")
    kept.add("c", "cut short")
    assert [record["image"] for record in runs.read_jsonl(tmp_path / "failed.jsonl")] == ["a", "bär", "c"]
    assert runs.Failures(tmp_path, keep=("c", "d")).reasons == {"c": "cut short"} == runs.read_failures(kept.path)
    assert len(runs.Failures(tmp_path)) == 0
    assert not (tmp_path / "failed.jsonl").exists()


def test_in_the_end_they_are_sorted(tmp_path):
    """Whatever a run met first, stopped or not."""
    failures = runs.Failures(tmp_path)
    for name in ("b", "a"):
        failures.add(name, "empty")
    failures.settle()
    assert [record["image"] for record in runs.read_jsonl(tmp_path / "failed.jsonl")] == ["a", "b"]
    (tmp_path / "failed.jsonl").unlink()
    runs.Failures(tmp_path, write=False).settle()
    assert not (tmp_path / "failed.jsonl").exists()


def test_shards_have_files_of_their_own_that_are_merged(tmp_path):
    first, second = (runs.Failures(tmp_path, Shard(number, 2)) for number in (1, 2))
    first.add("b", "empty")
    first.settle()
    second.add("a", "cut short")
    assert runs.read_jsonl(tmp_path / "failed.jsonl") == [{"image": "b", "reason": "empty"}]
    second.settle()
    both = [{"image": "a", "reason": "cut short"}, {"image": "b", "reason": "empty"}]
    assert runs.read_jsonl(tmp_path / "failed.jsonl") == both

    runs.Failures(tmp_path, Shard(1, 2)).settle()  # it ran again, and all went well
    assert runs.read_jsonl(tmp_path / "failed.jsonl") == both[:1]
    runs.Failures(tmp_path, Shard(2, 2)).settle()
    assert not (tmp_path / "failed.jsonl").exists()

    runs.Failures(tmp_path, Shard(1, 2)).add("b", "empty")
    assert len(runs.Failures(tmp_path)) == 0  # a run of everything starts anew
    assert not list(tmp_path.glob("failed*"))


@pytest.mark.parametrize(
    "line", ["{}", '{"image": "a"}', '{"image": 7, "reason": "b"}', '{"image": "a", "reason": []}']
)
def test_a_damaged_log_of_failures_is_one_line(tmp_path, line):
    path = tmp_path / "failed.jsonl"
    path.write_text(f'{{"image": "a", "reason": "b"}}\n{line}\n')
    with pytest.raises(StclError, match=r"failed.jsonl line 2: names no image and reason; remove that line"):
        runs.read_failures(path)
    with pytest.raises(StclError, match="line 2"):
        runs.Failures(tmp_path, keep=("a",))
    path.rename(tmp_path / "failed-1-of-2.jsonl")
    with pytest.raises(StclError, match=r"failed-1-of-2.jsonl line 2"):
        runs.Failures(tmp_path, Shard(2, 2)).settle()


def test_a_file_is_no_output_folder(tmp_path):
    (tmp_path / "labels.csv").touch()
    for folder in ("labels.csv", "labels.csv/x/y"):
        with pytest.raises(StclError, match=r"labels.csv: is a file; give a folder with -o$"):
            runs.open_output(tmp_path / folder)


def test_a_config_nested_beyond_all_reason_is_not_ours(tmp_path):
    (tmp_path / "config.json").write_text('{"command": "train", "stcl": "1", "x": ' + "[" * 600 + "]" * 600 + "}")
    with pytest.raises(StclError, match=r"config.json: was not written by stcl"):
        runs.read_config(tmp_path)
