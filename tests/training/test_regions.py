import pytest
import torch
from helpers import quick
from hypothesis import given
from hypothesis import strategies as st

from stcl_cli.data.photos import Photo
from stcl_cli.data.pixels import read_photo
from stcl_cli.inference import label_probabilities, photo_cams
from stcl_cli.runtime import pipeline
from stcl_cli.runtime.device import make_runtime
from stcl_cli.training import regions as regions_module
from stcl_cli.training.regions import probabilities_of_photos, spread


def test_a_few_tokens_of_each_photo_if_there_are_many(run, regions):
    model, config, labelled = run
    for one in regions(model, config, labelled, 3):
        assert one.sample.key_SE.shape == (3, model.memory.prototype.shape[1])
        assert one.sample.cam_KS.shape == (1, 3)


def test_probabilities_are_those_of_an_export(run, tmp_path):
    model, config, labelled = run
    (tmp_path / "broken.jpg").write_text("no photo")
    listed = [*labelled, (Photo("broken", tmp_path / "broken.jpg"), (0,))]
    first, none, second = probabilities_of_photos(model, config, make_runtime("cpu"), listed, [2, 3, 0])
    assert none is None
    for found, index in ((first, 2), (second, 0)):
        pixels = read_photo(labelled[index][0].path, config.max_side)
        cams = photo_cams(model, make_runtime("cpu"), [pixels], config.cam_scales)
        torch.testing.assert_close(found, label_probabilities(cams, model.memory)[0])


def test_a_few_tokens_of_each_photo_are_spread_over_all_of_it():
    for most in range(1, 50):
        h, w = 36, 48
        places = torch.cat([spread(h * w, most, number) for number in range(400 // most)])
        for line, length in ((places // w, h), (places % w, w)):
            thirds = (3 * line // length).bincount(minlength=3) / len(line)
            assert (thirds - 1 / 3).abs().max() < 0.05, most


@quick
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 4000), st.integers(0, 10**6))
def test_no_place_comes_twice_and_all_where_there_are_few(h, w, most, number):
    places = spread(h * w, most, number).tolist()
    assert places == sorted(set(places))
    assert len(places) == min(most, h * w)
    assert 0 <= places[0] <= places[-1] < h * w


def test_how_sure_the_classifier_is_does_not_count(run, regions):
    model, config, labelled = run
    (first,) = regions(model, config, labelled[:1])
    with torch.no_grad():
        model.classifier.weight.mul_(0.01)  # all classes: near one half; the maps stay, as they are normalised
    (again,) = regions(model, config, labelled[:1])
    torch.testing.assert_close(again.entries.quality_R, first.entries.quality_R, atol=1e-3, rtol=0)


@pytest.mark.parametrize("most", [2, 32])
def test_photos_together_leave_what_each_leaves_alone(run, regions, monkeypatch, most):
    model, config, labelled = run
    labelled[1] = (labelled[1][0], (0, 1))
    alone = [regions(model, config, [row])[0] for row in labelled]
    photo_cams, sizes = regions_module.photo_cams, []
    monkeypatch.setattr(regions_module, "photo_cams", lambda *of: sizes.append(len(of[2])) or photo_cams(*of))
    monkeypatch.setitem(pipeline.BATCH_PIXELS, "cpu", most * 48 * 64)
    for index, (single, together) in enumerate(zip(alone, regions(model, config, labelled), strict=True)):
        assert together.entries.photo_R.tolist() == [index] * len(single.entries.photo_R)
        assert together.entries.class_R.tolist() == single.entries.class_R.tolist()
        torch.testing.assert_close(together.entries.embedding_RE, single.entries.embedding_RE, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.entries.quality_R, single.entries.quality_R, atol=1e-5, rtol=0)
        for mine, other in zip(together.sample, single.sample, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-3, rtol=0)
    assert sizes == ([2, 1] if most == 2 else [3])
