import io
import json
from types import SimpleNamespace

import pytest

from stcl_cli.config import RefineConfig, RunConfig, SegtrainConfig, TrainConfig
from stcl_cli.errors import StclError
from stcl_cli.formats.runs import append_jsonl, read_jsonl
from stcl_cli.stages import run
from stcl_cli.stages.output import Result

TINY = {"backbone": "stcl_tiny", "pretrained": False, "iterations": 2, "batch_size": 1, "crop_size": 32}


@pytest.fixture
def config(trained, tmp_path):
    def make(**values):
        values = {"images": str(trained.photos), "labels": str(trained.root / "labels.csv"), "device": "cpu"} | values
        return RunConfig(output=str(tmp_path / "out"), **values)

    return make


@pytest.fixture
def stages(monkeypatch):
    """Stands in for the stages: their configs by name, in the order in which they ran."""
    seen = {}

    def stage(name):
        def stand_in(config, done=None):
            seen[name] = config
            return Result()

        return SimpleNamespace(run=stand_in)

    fakes = {name: (stage(name), config_class) for name, (_, config_class) in run.STAGES.items()}
    monkeypatch.setattr(run, "STAGES", fakes)
    return seen


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.suffix in (".png", ".safetensors")}


def test_the_whole_chain_and_nothing_twice(config, tmp_path):
    items = []
    assert run.run(config(**TINY), items.append).skipped == 0
    out = tmp_path / "out"
    for place in ("cams", "masks", "predictions"):
        assert len([path for path in files(out / place) if path.stem in ("a", "bär 01", "c.v1")]) == 3
    assert [item["image"] for item in items] == ["a", "sub dir/bär 01", "sub dir/c.v1"]
    before = files(out)
    run.run(config(**TINY), items.append)
    assert files(out) == before
    assert len(items) == 3


def test_each_training_has_its_own_learning_rate_unless_one_is_given(config, stages):
    run.run(config())
    assert (stages["train"].lr, stages["segtrain"].lr) == (TrainConfig.lr, SegtrainConfig.lr)
    run.run(config(lr=1e-3, overwrite=True))
    assert (stages["train"].lr, stages["segtrain"].lr) == (1e-3, 1e-3)


def test_labels_that_are_known_hold_for_every_stage_that_asks_for_them(config, stages):
    run.run(config(labels_format="csv"))
    given = (config().labels, "csv")
    assert [name for name, own in stages.items() if hasattr(own, "labels")] == ["train", "cam", "predict"]
    assert all((stages[name].labels, stages[name].labels_format) == given for name in ("train", "cam", "predict"))


def test_it_goes_on_after_a_stop(config, tmp_path, monkeypatch):
    refine = run.STAGES["refine"]

    def stop(config, done=None):
        raise KeyboardInterrupt

    monkeypatch.setitem(run.STAGES, "refine", (SimpleNamespace(run=stop), refine[1]))
    with pytest.raises(KeyboardInterrupt):
        run.run(config(**TINY))
    before = files(tmp_path / "out")
    assert before
    monkeypatch.setitem(run.STAGES, "refine", refine)
    run.run(config(**TINY))
    after = files(tmp_path / "out")
    assert before.items() < after.items()
    assert any(path.parent.name == "predictions" for path in after)


def test_options_reach_the_stages_that_have_them_and_nothing_else_changes(config, stages, tmp_path):
    run.run(config(batch_size=3, max_side=99, weights="w.safetensors", list="names.txt", seed=5, workers=2))
    assert list(stages) == ["train", "cam", "refine", "segtrain", "predict"]
    out = tmp_path / "out"
    photos, labels = stages["train"].images, stages["train"].labels
    assert stages["train"] == TrainConfig(
        images=photos, labels=labels, output=str(out / "run"), device="cpu", resume=True, batch_size=3, max_side=99,
        weights="w.safetensors", list="names.txt", seed=5, workers=2,
    )  # fmt: skip
    assert stages["segtrain"] == SegtrainConfig(
        images=photos, masks=str(out / "masks"), output=str(out / "seg"), init=str(out / "run"), device="cpu",
        resume=True, batch_size=3, max_side=99, list="names.txt", seed=5, workers=2,
    )  # fmt: skip
    assert stages["refine"].max_side == 99
    assert stages["cam"].labels == labels


def test_what_is_not_given_is_the_default_of_each_stage(config, stages):
    run.run(config())
    assert stages["train"].batch_size == TrainConfig.batch_size != SegtrainConfig.batch_size
    assert stages["segtrain"].batch_size == SegtrainConfig.batch_size
    assert stages["train"].max_side == TrainConfig.max_side != RefineConfig.max_side
    assert stages["refine"].max_side == RefineConfig.max_side


def test_values_for_one_stage_only(stages, tmp_path):
    given = {"images": "photos", "labels": "labels.csv", "iterations": 7}
    run.run_chain(tmp_path, given, train={"iterations": 8}, refine={"background": (0.2, 0.3)})
    assert (stages["train"].iterations, stages["segtrain"].iterations) == (8, 7)
    assert stages["refine"].background == (0.2, 0.3)
    with pytest.raises(TypeError, match="iterations"):
        run.run_chain(tmp_path, given, refine={"iterations": 1})


def test_other_options_are_refused_or_do_all_anew(config, stages, tmp_path):
    run.run(config(iterations=2))
    with pytest.raises(StclError, match=r"iterations = 2, not 3; .*--overwrite"):
        run.run(config(iterations=3))
    (tmp_path / "out" / "run").mkdir()
    run.run(config(iterations=3, overwrite=True))
    assert not (tmp_path / "out" / "run").exists()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["iterations"] == 3
    assert stages["train"].overwrite is False


def test_a_folder_of_somebody_else_is_left_alone(config, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "holiday.jpg").touch()
    for overwrite in (False, True):
        with pytest.raises(StclError, match=r"out: holds files but no config\.json"):
            run.run(config(overwrite=overwrite))


def test_ranks_start_the_stages_one_by_one(config, stages, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StclError, match="stcl run: is one process"):
        run.run(config())
    assert not (tmp_path / "out").exists()


def test_what_several_stages_skipped_counts_once(config, stages, tmp_path):
    run.run(config())
    for place in ("run", "cams", "predictions"):
        append_jsonl(tmp_path / "out" / place / "failed.jsonl", {"image": "x", "reason": f"broken in {place}"})
    append_jsonl(tmp_path / "out" / "cams" / "failed.jsonl", {"image": "y", "reason": "no label"})
    assert run.run(config()).skipped == 2
    assert read_jsonl(tmp_path / "out" / "failed.jsonl") == [
        {"image": "x", "reason": "broken in run"},
        {"image": "y", "reason": "no label"},
    ]


def test_a_damaged_log_of_a_stage_is_one_line(config, stages, tmp_path):
    run.run(config())
    append_jsonl(tmp_path / "out" / "cams" / "failed.jsonl", {"photo": "x"})
    with pytest.raises(StclError, match=r"cams/failed.jsonl line 1: names no image and reason; remove that line"):
        run.run(config())


def test_a_list_on_stdin_is_kept_to_go_on_with(config, stages, tmp_path, monkeypatch):
    def piped(data):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))

    piped(b"a.jpg\n")
    run.run(config(images="-"))
    piped(b"")  # as of cron, or </dev/null
    run.run(config(images="-"))
    assert stages["train"].images == str(tmp_path / "out" / "photos.txt")
    assert (tmp_path / "out" / "photos.txt").read_bytes() == b"a.jpg\n"
    piped(b"b.jpg\n")
    run.run(config(images="-"))
    assert (tmp_path / "out" / "photos.txt").read_bytes() == b"b.jpg\n"
    piped(b"c.jpg\n")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    run.run(config(images="-"))
    assert (tmp_path / "out" / "photos.txt").read_bytes() == b"b.jpg\n"
