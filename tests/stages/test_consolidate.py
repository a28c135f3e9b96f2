import numpy as np
import pytest
import torch
from helpers import quick
from hypothesis import given
from hypothesis import strategies as st

from stcl_cli.config import TrainConfig
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.networks import load_stcl
from stcl_cli.runtime import make_runtime
from stcl_cli.stages import consolidate as module
from stcl_cli.stages.consolidate import choose, consolidate, regions_of

RUNTIME = make_runtime("cpu")


@pytest.fixture
def run(trained):
    """A network whose maps are noise, with thresholds that find regions in noise, and its labelled photos."""
    model = load_stcl(trained.run)[0].eval()
    torch.manual_seed(0)
    for parameter in (model.classifier.weight, model.classifier_aux.weight):
        torch.nn.init.normal_(parameter)
    config = TrainConfig(images="", labels="", output="", cam_scales=(1.0,), guidance=0.0)
    labelled = [(photo, (number % 2,)) for number, photo in enumerate(list_photos(str(trained.photos))[0])]
    return model, config, labelled


def told(model, config, labelled):
    words = []
    consolidate(model, config, RUNTIME, labelled, words.append)
    return words


def test_the_memory_holds_the_regions_of_every_photo_and_no_other(run, monkeypatch):
    model, config, labelled = run
    expected = [regions_of(model, config, RUNTIME, index, *row) for index, row in enumerate(labelled)]
    expected = [torch.cat(column) for column in zip(*expected, strict=True)]
    assert set(expected[1].tolist()) == {0, 1, 2}
    monkeypatch.setattr(module, "CHUNK", 2)
    model.memory.adaptive = False  # or the gate keeps some out
    assert told(model, config, labelled) == [f"consolidating the memory {first}/3" for first in (0, 2)]
    view = model.memory.view()
    for label in range(3):
        own = expected[1] == label
        assert int(view.filled_CM[label].sum()) == int(own.sum())
        stored = view.embedding_CME[label][view.filled_CM[label]]
        torch.testing.assert_close(stored, expected[0][own])
        assert model.memory.photo[label][view.filled_CM[label]].tolist() == expected[3][own].tolist()
        assert view.quality_CM[label][view.filled_CM[label]].tolist() == expected[2][own].tolist()
    assert model.training


def test_a_class_that_nothing_is_found_of_keeps_what_it_had_and_a_broken_photo_is_passed_over(run, tmp_path):
    model, config, labelled = run
    before = {name: value.clone() for name, value in model.memory.named_buffers()}
    (tmp_path / "broken.jpg").write_text("no photo")
    told(model, config, [(Photo("broken", tmp_path / "broken.jpg"), (0,)), labelled[1]])
    for name, value in model.memory.named_buffers():
        assert torch.equal(value[1], before[name][1])
    assert not torch.equal(model.memory.prototype[2], before["prototype"][2])
    assert set(model.memory.photo[2].tolist()) == {-1, 1}


def test_a_photo_that_there_is_too_little_memory_for_is_passed_over(run, monkeypatch):
    model, config, labelled = run
    photo_cams, asked = module.photo_cams, []

    def full(*inputs):
        asked.append(inputs)
        if len(asked) == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return photo_cams(*inputs)

    monkeypatch.setattr(module, "photo_cams", full)
    told(model, config, labelled)
    assert len(asked) == 3
    assert set(model.memory.photo[model.memory.stored_at >= 0].tolist()) == {1, 2}


def test_how_sure_the_classifier_is_does_not_count(run):
    model, config, labelled = run
    photo, labels = labelled[0]
    quality = regions_of(model, config, RUNTIME, 0, photo, labels).quality_R
    with torch.no_grad():
        model.classifier.weight.mul_(0.01)  # all classes: near one half; the maps stay, as they are normalised
    torch.testing.assert_close(
        regions_of(model, config, RUNTIME, 0, photo, labels).quality_R, quality, atol=1e-3, rtol=0
    )


@quick
@given(st.lists(st.sets(st.integers(0, 4), max_size=3), max_size=40), st.integers(1, 6))
def test_as_many_photos_of_each_class_as_it_has_slots(shown, most):
    chosen = choose([(None, tuple(sorted(classes))) for classes in shown], most)
    assert chosen == sorted(set(chosen))
    counts = np.bincount([label for index in chosen for label in shown[index]], minlength=5)
    for label, count in enumerate(counts):
        assert count >= min(most, sum(label in classes for classes in shown))
    assert len(chosen) <= 5 * most
