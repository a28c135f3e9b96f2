"""The stages that divide their list among several processes."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from ranks import run_ranks

from stcl_cli.config import CamConfig, PredictConfig, RefineConfig
from stcl_cli.errors import StclError
from stcl_cli.formats.runs import read_config, read_jsonl
from stcl_cli.stages import cam, predict, refine

STAGES = {"cam": cam, "refine": refine, "predict": predict}


@pytest.fixture(params=STAGES)
def work(request, trained, tmp_path):
    """A stage and its config for seven photos, of which two cannot be read."""
    photos = tmp_path / "photos"
    shutil.copytree(trained.photos, photos)
    for name in ("d", "e", "sub dir/f"):
        shutil.copy(photos / "a.jpg", photos / f"{name}.jpg")
    if request.param == "refine":
        run(cam, CamConfig(images=str(photos), model=str(trained.run), output=str(tmp_path / "cams"), device="cpu"))
        (tmp_path / "cams" / "d.safetensors").write_bytes(b"cut short")
    (photos / "e.jpg").write_bytes(b"no photo")
    common = {"images": str(photos), "output": str(tmp_path / "all"), "device": "cpu"}
    config = {
        "cam": lambda: CamConfig(model=str(trained.run), **common),
        "refine": lambda: RefineConfig(cams=str(tmp_path / "cams"), overlays=str(tmp_path / "all look"), **common),
        "predict": lambda: PredictConfig(model=str(trained.seg), **common),
    }[request.param]()
    return STAGES[request.param], config


def run(stage, config):
    """(names of the finished items, how many were skipped)."""
    items = []
    skipped = stage.run(config, items.append).skipped
    return [item["image"] for item in items], skipped


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*.*") if is_output(path)}


def is_output(path):
    return path.suffix in (".safetensors", ".png", ".jpg")


def test_processes_divide_the_list(work, tmp_path):
    stage, config = work
    ((everything, skipped),) = run_ranks(1, lambda rank: run(stage, config))  # with one thread, as they have
    shared = replace(config, output=str(tmp_path / "shared"))
    if getattr(config, "overlays", None):
        shared = replace(shared, overlays=str(tmp_path / "shared look"))
    results = run_ranks(3, lambda rank: run(stage, shared))
    names = [name for done, _ in results for name in done]
    assert sorted(names) == sorted(everything)  # each once
    assert sum(count for _, count in results) == skipped > 0
    for folder, other in (("all", "shared"), ("all look", "shared look")):
        assert contents(tmp_path / folder) == contents(tmp_path / other)
    failed = [read_jsonl(tmp_path / name / "failed.jsonl") for name in ("all", "shared")]
    assert sorted(map(str, failed[0])) == sorted(map(str, failed[1]))
    _, fields = read_config(tmp_path / "shared")
    assert "shard" not in fields
    assert run_ranks(3, lambda rank: run(stage, shared)[0]) == [[], [], []]  # there is nothing left to do


def test_shards_one_after_the_other_and_again_in_another_division(work):
    stage, config = work
    first, _ = run(stage, replace(config, shard="1/2"))
    assert run(stage, replace(config, shard="1/2"))[0] == []
    with pytest.raises(StclError, match="is not empty"):
        run(stage, config)
    with pytest.raises(StclError, match="was started with"):
        run(stage, replace(config, shard="2/2", **({"amp": "bf16"} if stage is not refine else {"background": (0.6,)})))
    rest, _ = run(stage, replace(config, resume=True))
    assert not set(first) & set(rest)
    assert len(contents(config.output)) == len(first) + len(rest)
