import copy
import dataclasses

import numpy as np
import pytest
import torch
from helpers import quick
from hypothesis import given
from hypothesis import strategies as st

from stcl_cli.config import TrainConfig
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.data.pixels import read_photo
from stcl_cli.networks import load_stcl
from stcl_cli.runtime import pipeline
from stcl_cli.runtime.device import make_runtime
from stcl_cli.training import consolidate as module
from stcl_cli.training.consolidate import Found, choose, consolidate, regions_of_photos, spread
from stcl_models.memory_bank import Entries, MemoryBank

RUNTIME = make_runtime("cpu")


@pytest.fixture
def run(trained):
    """A network whose maps are noise, with thresholds that find regions in noise, and its labelled photos."""
    model = load_stcl(trained.run)[0].eval()
    torch.manual_seed(0)
    for parameter in (model.classifier.weight, model.classifier_aux.weight):
        torch.nn.init.normal_(parameter)
    config = TrainConfig(images="", labels="", output="", cam_scales=(1.0,), guidance=0.0, max_side=64)
    labelled = [(photo, (number % 2,)) for number, photo in enumerate(list_photos(str(trained.photos))[0])]
    return model, config, labelled


def regions(model, config, labelled, tokens=1000):
    return list(regions_of_photos(model, config, RUNTIME, labelled, range(len(labelled)), tokens))


def told(model, config, labelled):
    words = []
    consolidate(model, config, RUNTIME, labelled, words.append)
    return words


def test_the_memory_holds_the_regions_of_every_photo_and_no_other(run, monkeypatch):
    model, config, labelled = run
    found = regions(model, config, labelled)
    expected = [torch.cat(column) for column in zip(*(one.entries for one in found), strict=True)]
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


def test_what_it_says_is_learnt_from_the_tokens_that_are_sure_by_the_new_prototypes(run, monkeypatch):
    """Against a loop over tokens."""
    model, config, labelled = run
    config = dataclasses.replace(config, guidance=0.3, beta_low=0.4, beta_high=0.5)
    labelled[1] = (labelled[1][0], (0, 1))
    samples = [one.sample for one in regions(model, config, labelled)]
    given = []
    monkeypatch.setattr(
        module, "learn_discriminants", lambda *of: given.append(of) or [torch.full((3, 1), 7.0), torch.full((3,), 8.0)]
    )
    told(model, config, labelled)
    ((token_SE, class_S, photo_S, labels_PK, classes),) = given
    assert (model.memory.discriminant == 7).all()
    assert (model.memory.offset == 8).all()
    assert classes == 3
    assert labels_PK.tolist() == [[1, 0], [1, 2], [1, 0]]
    bank = copy.deepcopy(model.memory)
    bank.read_by_prototypes()
    view, expected = bank.view(), []
    for key_SE, cam_KS, slots_1K in samples:
        own = [0, *(slot + 1 for slot in slots_1K[0].tolist())]
        for key, cam in zip(key_SE.double(), cam_KS.double().t(), strict=True):
            scores = [key @ view.discriminant_CE[c].double() + view.offset_C[c] for c in own]
            remembered = torch.stack(scores).softmax(0)[1:]
            maps = [
                (1 - 0.3 * view.trust_C[c]) * value + 0.3 * view.trust_C[c] * share
                for c, value, share in zip(own[1:], cam, remembered, strict=True)
            ]
            best = max(maps)
            expected.append(own[1 + maps.index(best)] if best >= 0.5 else 0 if best <= 0.4 else -1)
    assert set(expected) == {-1, 0, 1, 2}
    assert class_S.tolist() == expected
    assert torch.equal(token_SE, torch.cat([key_SE for key_SE, _, _ in samples]))
    assert photo_S.tolist() == [number for number, (key_SE, _, _) in enumerate(samples) for _ in key_SE]


def test_of_many_photos_a_few_tokens_each_are_looked_at_again(run, monkeypatch):
    model, config, labelled = run
    for one in regions(model, config, labelled, 3):
        assert one.sample.key_SE.shape == (3, model.memory.prototype.shape[1])
        assert one.sample.cam_KS.shape == (1, 3)
    asked = []
    monkeypatch.setattr(module, "SAMPLE", 10)
    monkeypatch.setattr(module, "regions_of_photos", lambda *of: asked.append(of[-1]) or regions_of_photos(*of))
    model.memory = MemoryBank(3, model.memory.embedding.shape[2], slots=1)
    told(model, config, labelled * 5)  # of which two are chosen
    assert asked == [5]


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


def test_first_in_first_out_holds_here_too(run, monkeypatch):
    model, config, labelled = run
    row = torch.eye(1, model.memory.embedding.shape[2])
    monkeypatch.setattr(module, "CHUNK", 1)
    monkeypatch.setattr(
        module,
        "regions_of_photos",
        lambda model, config, runtime, labelled, indices, tokens: (
            Found(Entries(row, *torch.tensor([[0], [1], [index]])), None) for index in indices
        ),
    )
    model.memory = MemoryBank(3, model.memory.embedding.shape[2], slots=3, adaptive=False)
    told(model, config, [(labelled[0][0], (number % 2,)) for number in range(5)])
    assert sorted(model.memory.photo[0].tolist()) == [2, 3, 4]


def test_a_class_that_nothing_is_found_of_keeps_what_it_had_and_a_broken_photo_is_passed_over(run, tmp_path):
    model, config, labelled = run
    before = {name: value.clone() for name, value in model.memory.named_buffers()}
    (tmp_path / "broken.jpg").write_text("no photo")
    told(model, config, [(Photo("broken", tmp_path / "broken.jpg"), (0,)), labelled[1]])
    for name, value in model.memory.named_buffers():
        if name not in ("discriminant", "offset"):
            assert torch.equal(value[1], before[name][1])
    assert before["discriminant"][1].any()
    assert not model.memory.discriminant[1].any()
    assert not torch.equal(model.memory.prototype[2], before["prototype"][2])
    assert set(model.memory.photo[2].tolist()) == {-1, 1}


def test_a_photo_that_there_is_too_little_memory_for_is_passed_over(run, monkeypatch):
    model, config, labelled = run
    photo_cams, large = module.photo_cams, read_photo(labelled[0][0].path)

    def full(model, runtime, photos, scales):
        if any(np.array_equal(photo, large) for photo in photos):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return photo_cams(model, runtime, photos, scales)

    monkeypatch.setattr(module, "photo_cams", full)
    told(model, config, labelled)
    assert set(model.memory.photo[model.memory.stored_at >= 0].tolist()) == {1, 2}


def test_how_sure_the_classifier_is_does_not_count(run):
    model, config, labelled = run
    (first,) = regions(model, config, labelled[:1])
    with torch.no_grad():
        model.classifier.weight.mul_(0.01)  # all classes: near one half; the maps stay, as they are normalised
    (again,) = regions(model, config, labelled[:1])
    torch.testing.assert_close(again.entries.quality_R, first.entries.quality_R, atol=1e-3, rtol=0)


@pytest.mark.parametrize("most", [2, 32])
def test_photos_together_leave_what_each_leaves_alone(run, monkeypatch, most):
    model, config, labelled = run
    labelled[1] = (labelled[1][0], (0, 1))
    alone = [regions(model, config, [row])[0] for row in labelled]
    photo_cams, sizes = module.photo_cams, []
    monkeypatch.setattr(module, "photo_cams", lambda *of: sizes.append(len(of[2])) or photo_cams(*of))
    monkeypatch.setitem(pipeline.BATCH_PIXELS, "cpu", most * 48 * 64)
    for index, (single, together) in enumerate(zip(alone, regions(model, config, labelled), strict=True)):
        assert together.entries.photo_R.tolist() == [index] * len(single.entries.photo_R)
        assert together.entries.class_R.tolist() == single.entries.class_R.tolist()
        torch.testing.assert_close(together.entries.embedding_RE, single.entries.embedding_RE, atol=1e-5, rtol=0)
        torch.testing.assert_close(together.entries.quality_R, single.entries.quality_R, atol=1e-5, rtol=0)
        for mine, other in zip(together.sample, single.sample, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-3, rtol=0)
    assert sizes == ([2, 1] if most == 2 else [3])


@quick
@given(st.lists(st.sets(st.integers(0, 4), max_size=3), max_size=40), st.integers(1, 6))
def test_as_many_photos_of_each_class_as_it_has_slots(shown, most):
    chosen = choose([(None, tuple(sorted(classes))) for classes in shown], most)
    assert chosen == sorted(set(chosen))
    counts = np.bincount([label for index in chosen for label in shown[index]], minlength=5)
    for label, count in enumerate(counts):
        assert count >= min(most, sum(label in classes for classes in shown))
    assert len(chosen) <= 5 * most
