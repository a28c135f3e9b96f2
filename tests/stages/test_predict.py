import json

import numpy as np
import pytest
import torch

from stcl_cli.config import PredictConfig
from stcl_cli.data.pixels import read_photo
from stcl_cli.errors import StclError
from stcl_cli.formats.masks import read_mask
from stcl_cli.stages import predict
from stcl_cli.strips import argmax_at_size


@pytest.fixture
def run(trained, tmp_path):
    def run(**settings):
        items = []
        settings = {"images": str(trained.photos), "output": str(tmp_path / "out"), "device": "cpu"} | settings
        result = predict.run(PredictConfig(model=str(trained.seg), **settings), items.append)
        return result, items

    return run


def test_a_mask_of_the_photo_s_size_for_every_photo(run, tmp_path):
    result, items = run()
    assert (result.summary, result.skipped) == (None, 0)
    assert [item["image"] for item in items] == ["a", "sub dir/bär 01", "sub dir/c.v1"]
    for item in items:
        assert item["output"] == tmp_path / "out" / f"{item['image']}.png"
        mask_HW = read_mask(item["output"])
        assert mask_HW.shape == (40, 56)
        names = ("background", "cat", "dog")
        assert item["classes"] == [names[value] for value in np.unique(mask_HW) if value]


def test_masks_without_any_class_are_counted(run, monkeypatch, capsys):
    monkeypatch.setattr(predict, "argmax_at_size", lambda scores, size: np.zeros(size, np.uint8))
    monkeypatch.setattr(predict, "_smallest", lambda scores, max_side: scores)
    run()
    said = capsys.readouterr().err
    assert ", 3 of them without any class" in said
    assert "stcl: no mask shows a class: look at the masks it was trained on" in said


def test_scales_and_mirror_images_are_those_asked_for(run, monkeypatch):
    asked, compute = [], predict.photo_scores

    def watched(model, runtime, photos, scales, flip):
        asked.append((tuple(scales), flip))
        return compute(model, runtime, photos, scales, flip)

    monkeypatch.setattr(predict, "photo_scores", watched)
    run(scales=(0.5, 1.0), flip=False)
    run(overwrite=True)
    assert set(asked) == {((0.5, 1.0), False), (PredictConfig.scales, PredictConfig.flip)}


def test_what_is_kept_until_a_mask_is_written():
    scores = torch.rand(5, 30, 40).round(decimals=1)  # with many equal ones
    mask = predict._smallest(scores, max_side=41)
    assert mask.dtype == torch.uint8
    assert np.array_equal(mask.numpy(), argmax_at_size(scores.numpy(), (30, 40)))
    assert predict._smallest(scores, max_side=40) is scores  # the photo may have been larger


def test_with_labels_no_other_class_comes_into_a_mask(run, trained, tmp_path, capsys, monkeypatch):
    """Against the best of the labelled classes by the network's own scores, also where a photo had been reduced."""
    labels = tmp_path / "labels.csv"
    labels.write_text("image,labels\na,dog\nsub dir/c.v1,\n")
    scores, compute = {}, predict.photo_scores

    def watched(model, runtime, photos, **settings):
        found = compute(model, runtime, photos, **settings)
        scores.update((photo.tobytes(), score.clone()) for photo, score in zip(photos, found, strict=True))
        return found

    monkeypatch.setattr(predict, "photo_scores", watched)
    for name, smallest in {"small": predict._smallest, "reduced": lambda scores, max_side: scores}.items():
        monkeypatch.setattr(predict, "_smallest", smallest)
        _, items = run(labels=str(labels), output=str(tmp_path / name))
        assert "1 photo without labels: any class may be in them" in capsys.readouterr().err
        masks = {item["image"]: read_mask(item["output"]) for item in items}
        for photo, values in {"a": [0, 2], "sub dir/bär 01": [0, 1, 2], "sub dir/c.v1": [0]}.items():
            pixels = read_photo(next(trained.photos.glob(f"{photo}.[jp]*")), 512)
            expected = np.array(values)[scores[pixels.tobytes()][values].argmax(0).numpy()]
            assert np.array_equal(masks[photo], expected)
    assert json.loads((tmp_path / "small" / "photos.json").read_text()) == {"a": ["dog"], "sub dir/c.v1": []}
    labels.write_text("image,labels\na,cat\nsub dir/c.v1,\n")
    with pytest.raises(StclError, match="was begun with other labels of a;"):
        run(labels=str(labels), output=str(tmp_path / "small"), resume=True)
    labels.write_text("image,labels\na,horse\n")
    with pytest.raises(StclError, match="horse"):
        run(labels=str(labels))
    labels.write_text("image,labels\nz,cat\n")
    with pytest.raises(StclError, match="none of its names is a photo in"):
        run(labels=str(labels))
    run(labels_format="csv")
    assert "--labels-format is passed over: it is of the file that --labels names" in capsys.readouterr().err


def test_a_photo_that_has_labels_by_now_gets_another_mask(run, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("image,labels\na,dog\n")
    run(labels=str(labels))
    labels.write_text("image,labels\na,dog\nsub dir/bär 01,\n")
    (item,) = run(labels=str(labels), resume=True)[1]
    assert (item["image"], item["classes"]) == ("sub dir/bär 01", [])
    assert run(labels=str(labels), resume=True)[1] == []


def test_resume_adds_what_lacks(run, tmp_path):
    run()
    (tmp_path / "out" / "a.png").unlink()
    assert [item["image"] for item in run(resume=True)[1]] == ["a"]
    items = run(resume=True, overlays=str(tmp_path / "look"))[1]
    assert [item["overlay"].is_file() for item in items] == [True] * 3
    assert run(resume=True, overlays=str(tmp_path / "look"))[1] == []


def test_a_broken_photo_is_skipped(run, trained, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_text("no photo")
    (tmp_path / "photos" / "good.jpg").write_bytes((trained.photos / "a.jpg").read_bytes())
    result, items = run(images=str(tmp_path / "photos"))
    assert (result.skipped, [item["image"] for item in items]) == (1, ["good"])
    assert "broken.jpg: is not an image" in (tmp_path / "out" / "failed.jsonl").read_text()


def test_a_photo_whose_mask_would_be_called_like_the_folder_of_another_s(run, trained, tmp_path):
    for name in ("foo.jpg", "foo.png/bar.jpg", "good.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((trained.photos / "a.jpg").read_bytes())
    (tmp_path / "labels.csv").write_text("image,labels\nfoo.jpg,dog\nfoo.png/bar,dog\n")
    for resume in (False, True):
        settings = {"images": str(tmp_path / "photos"), "labels": str(tmp_path / "labels.csv")}
        assert run(**settings, resume=resume)[0].skipped == 1
        assert "cannot be written" in (tmp_path / "out" / "failed.jsonl").read_text()
    assert (tmp_path / "out" / "good.png").is_file()


def test_a_photo_that_memory_is_too_small_for_is_skipped(run, monkeypatch):
    photo_scores, seen = predict.photo_scores, []

    def refuse_all_three_together_and_the_first_alone(*arguments, **settings):
        seen.append(arguments)
        if len(seen) <= 2:
            raise MemoryError
        return photo_scores(*arguments, **settings)

    monkeypatch.setattr(predict, "photo_scores", refuse_all_three_together_and_the_first_alone)
    result, items = run()
    assert [item["image"] for item in items] == ["sub dir/bär 01", "sub dir/c.v1"]
    assert result.skipped == 1


def test_a_mask_made_with_labels_is_not_taken_for_one_without(run, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("image,labels\na,dog\nsub dir/bär 01,cat\n")
    run(labels=str(labels))
    labels.write_text("image,labels\na,dog\n")
    with pytest.raises(StclError, match="was begun with other labels of sub dir/bär 01;"):
        run(labels=str(labels), resume=True)
    (tmp_path / "out" / "photos.json").write_text("damaged")
    assert len(run(labels=str(labels), overwrite=True)[1]) == 3
