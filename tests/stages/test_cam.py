from dataclasses import replace

import pytest
import torch

from stcl_cli import inference
from stcl_cli.config import CamConfig
from stcl_cli.errors import StclError
from stcl_cli.formats.cams import read_cam
from stcl_cli.formats.runs import read_jsonl
from stcl_cli.networks import load_stcl
from stcl_cli.stages import cam


@pytest.fixture
def run(trained, tmp_path):
    def run(**settings):
        items = []
        defaults = {"images": str(trained.photos), "output": str(tmp_path / "out"), "device": "cpu", "scales": (1.0,)}
        result = cam.run(CamConfig(model=str(trained.run), **defaults | settings), items.append)
        return result, items

    return run


def test_a_file_and_an_item_for_every_photo(run, tmp_path):
    (tmp_path / "labels.csv").write_text("a,cat\nbär 01,dog\nc.v1,cat;dog\n")
    result, items = run(labels=str(tmp_path / "labels.csv"))
    assert (result.summary, result.skipped) == (None, 0)
    assert [(item["image"], item["classes"], item["source"]) for item in items] == [
        ("a", ["cat"], "given"),
        ("sub dir/bär 01", ["dog"], "given"),
        ("sub dir/c.v1", ["cat", "dog"], "given"),
    ]
    for item in items:
        file = read_cam(item["output"])
        assert [file.classes[label] for label in file.labels] == item["classes"]
        assert file.size == (40, 56)


def test_an_option_without_an_effect_is_told(run, tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("a,cat\n")
    assert len(run(labels=str(tmp_path / "labels.csv"), threshold=0.3)[1]) == 1
    assert "stcl: --threshold is passed over: --labels say which classes are shown\n" in capsys.readouterr().err
    assert len(run(labels_format="csv", overwrite=True)[1]) == 3
    assert "stcl: --labels-format is passed over: it is of the file that --labels names" in capsys.readouterr().err
    run(overwrite=True)
    assert "passed over" not in capsys.readouterr().err


def test_labels_of_other_photos(run, tmp_path):
    (tmp_path / "labels.csv").write_text("z.jpg,cat\n")
    with pytest.raises(StclError, match=r"none of its names is a photo in .*; it names 'z\.jpg', there is 'a'"):
        run(labels=str(tmp_path / "labels.csv"))


def test_without_labels_the_classifier_s(run, capsys):
    assert [item["classes"] for item in run(threshold=0.0)[1]] == [["cat", "dog"]] * 3
    items = run(threshold=1.0, overwrite=True)[1]
    assert [(item["classes"], item["source"]) for item in items] == [([], "predicted")] * 3
    said = capsys.readouterr().err
    first, second = (line for line in said.splitlines() if line.startswith("3 CAMs in "))
    assert not first.endswith("without any class")
    assert second.endswith(", 3 of them without any class")
    assert said.count("no class of any photo reaches --threshold 1: lower it") == 1
    items[1]["output"].unlink()
    run(threshold=1.0, resume=True)
    assert ", 1 of the 1 made now without any class" in capsys.readouterr().err


def test_without_labels_the_memory_s_word_too_where_a_threshold_is_known(run, monkeypatch, capsys):
    """Unless the memory is not to count, or the training found no threshold; --threshold goes before both."""
    known, words = [(0.25, 0.25)], []

    def load(path):
        model, info, trained = load_stcl(path)
        model.threshold.copy_(torch.tensor(known[0]))
        return model, info, trained

    def word(probability_C, score_RN, bank):
        words.append(float(probability_C[0]))
        return torch.tensor([0.3, 0.2])

    monkeypatch.setattr(cam, "load_stcl", load)
    monkeypatch.setattr(inference, "shown_probability", word)
    items = run()[1]
    assert [item["classes"] for item in items] == [["cat"]] * 3
    assert all(0 < probability < 1 for probability in words)
    assert read_cam(items[0]["output"]).scores == pytest.approx((0.3,))
    assert "shown from a probability of 0.25 (--threshold)" in capsys.readouterr().err
    assert [item["classes"] for item in run(threshold=0.1, overwrite=True)[1]] == [["cat", "dog"]] * 3
    known[0] = (0.4, 0.15)
    assert [item["classes"] for item in run(overwrite=True)[1]] == [["dog"]] * 3
    assert "from a probability of 0.15 to 0.4 (--threshold)" in capsys.readouterr().err
    words.clear()
    run(memory=0.0, overwrite=True)
    known[0] = (0.0, 0.0)
    run(overwrite=True)
    assert capsys.readouterr().err.count("shown from a probability of 0.5 (--threshold)") == 2
    assert not words


def test_resume_and_what_is_skipped(run, tmp_path):
    (tmp_path / "labels.csv").write_text("a,cat\nbär 01,dog\n")
    settings = {"labels": str(tmp_path / "labels.csv")}
    assert run(**settings)[0].skipped == 1
    (record,) = read_jsonl(tmp_path / "out" / "failed.jsonl")
    assert record["image"] == "sub dir/c.v1"
    (tmp_path / "out" / "a.safetensors").unlink()
    assert [item["image"] for item in run(resume=True, **settings)[1]] == ["a"]


def test_a_memory_that_is_not_there_is_not_asked_for(run, monkeypatch):
    load = cam.load_stcl

    def without_memory(path):
        model, *others = load(path)
        model.memory = None
        return model, *others

    monkeypatch.setattr(cam, "load_stcl", without_memory)
    with pytest.raises(StclError, match=r"--memory 0.5: .* was trained without a memory; leave it out"):
        run(threshold=0.0, memory=0.5)
    assert len(run(threshold=0.0, memory=0.0)[1]) == 3
    assert len(run(threshold=0.0, overwrite=True)[1]) == 3


def test_scales_change_the_maps(run):
    def maps(**settings):
        return [read_cam(item["output"]).cam_KHW for item in run(threshold=0.0, overwrite=True, **settings)[1]]

    plain, *others = maps(), maps(scales=(1.0, 0.5)), maps(scales=(1.0,))
    assert [all((a == b).all() for a, b in zip(plain, other, strict=True)) for other in others] == [False, True]


def test_affinity_is_kept_on_request(run):
    settings = {"threshold": 0.0}
    for affinity in (False, True):
        files = [read_cam(item["output"]) for item in run(**settings, affinity=affinity, overwrite=True)[1]]
        assert [file.affinity_hwJ is not None for file in files] == [affinity] * 3


def test_a_photo_that_memory_is_too_small_for_is_skipped_and_named(run, monkeypatch, tmp_path):
    photo_cams, alone = cam.photo_cams, []

    def refuse_several_and_the_second_alone(model, runtime, photos, scales):
        alone.extend(photos if len(photos) == 1 else [])
        if len(photos) > 1 or len(alone) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return photo_cams(model, runtime, photos, scales)

    monkeypatch.setattr(cam, "photo_cams", refuse_several_and_the_second_alone)
    result, items = run()
    assert [item["image"] for item in items] == ["a", "sub dir/c.v1"]
    assert result.skipped == 1
    (record,) = read_jsonl(tmp_path / "out" / "failed.jsonl")
    assert record["image"] == "sub dir/bär 01"
    assert "there is too little memory for it" in record["reason"]


@pytest.mark.parametrize(("given", "share"), [({}, 0.25), ({"memory": 0.0}, 0.0), ({"memory": 1.0}, 1.0)])
def test_the_memory_has_the_share_that_it_had_in_training_unless_told(run, monkeypatch, given, share):
    load, maps, seen = cam.load_stcl, cam.label_maps, []

    def with_guidance(path):
        model, info, config = load(path)
        return model, info, replace(config, guidance=0.25)

    monkeypatch.setattr(cam, "load_stcl", with_guidance)
    monkeypatch.setattr(cam, "label_maps", lambda *arguments: seen.append(arguments[3]) or maps(*arguments))
    run(**given)
    assert set(seen) == {share}
