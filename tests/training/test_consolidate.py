import copy
import dataclasses

import numpy as np
import pytest
import torch
from helpers import quick
from hypothesis import given
from hypothesis import strategies as st

from stcl_cli.data.photos import Photo
from stcl_cli.data.pixels import read_photo
from stcl_cli.presence import best_thresholds, count_probabilities
from stcl_cli.runtime.device import make_runtime
from stcl_cli.training import consolidate as module
from stcl_cli.training import regions as regions_module
from stcl_cli.training.consolidate import choose, consolidate
from stcl_cli.training.regions import Found, probabilities_of_photos, regions_of_photos
from stcl_models.memory_bank import Entries, MemoryBank


def told(model, config, labelled):
    words = []
    consolidate(model, config, make_runtime("cpu"), labelled, words.append)
    return words


def test_the_memory_holds_the_regions_of_every_photo_and_no_other(run, regions, monkeypatch):
    model, config, labelled = run
    found = regions(model, config, labelled)
    expected = [torch.cat(column) for column in zip(*(one.entries for one in found), strict=True)]
    assert set(expected[1].tolist()) == {0, 1, 2}
    monkeypatch.setattr(module, "CHUNK", 2)
    model.memory.adaptive = False  # or the gate keeps some out
    what = ("consolidating the memory", "finding thresholds")
    assert told(model, config, labelled) == [f"{words} {number}/3" for words in what for number in (0, 2)]
    view = model.memory.view()
    for label in range(3):
        own = expected[1] == label
        assert int(view.filled_CM[label].sum()) == int(own.sum())
        stored = view.embedding_CME[label][view.filled_CM[label]]
        torch.testing.assert_close(stored, expected[0][own])
        assert model.memory.photo[label][view.filled_CM[label]].tolist() == expected[3][own].tolist()
        assert view.quality_CM[label][view.filled_CM[label]].tolist() == expected[2][own].tolist()
    assert model.training


def test_what_it_says_is_learnt_from_the_tokens_that_are_sure_by_the_new_prototypes(run, regions, monkeypatch):
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
    asked = []
    monkeypatch.setattr(module, "SAMPLE", 10)
    monkeypatch.setattr(module, "regions_of_photos", lambda *of: asked.append(of[-1]) or regions_of_photos(*of))
    model.memory = MemoryBank(3, model.memory.embedding.shape[2], slots=1)
    told(model, config, labelled * 5)  # of which two are chosen
    assert asked == [5]


def test_the_thresholds_are_those_at_which_the_labels_are_found_best(run, monkeypatch):
    """By the finished network, in photos evenly over all, also those that show nothing."""
    model, config, labelled = run
    labelled = [labelled[0], (labelled[1][0], (0,)), (labelled[2][0], ())]
    monkeypatch.setattr(module, "SEEN", 2)
    asked = []
    monkeypatch.setattr(module, "count_probabilities", lambda *of: asked.append(of) or count_probabilities(*of))
    told(model, config, labelled)
    assert [labels_K.tolist() for _, labels_K in asked] == [[0], []]
    listed = probabilities_of_photos(model.eval(), config, make_runtime("cpu"), labelled, [0, 2])
    expected = sum(
        count_probabilities(probability_C, torch.tensor(labels, dtype=torch.long))
        for probability_C, labels in zip(listed, ([0], []), strict=True)
    )
    assert model.threshold.tolist() == pytest.approx(best_thresholds(expected).tolist())
    assert all(0 < at < 1 for at in model.threshold.tolist())


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
    photo_cams, large = regions_module.photo_cams, read_photo(labelled[0][0].path)

    def full(model, runtime, photos, scales):
        if any(np.array_equal(photo, large) for photo in photos):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return photo_cams(model, runtime, photos, scales)

    monkeypatch.setattr(regions_module, "photo_cams", full)
    told(model, config, labelled)
    assert set(model.memory.photo[model.memory.stored_at >= 0].tolist()) == {1, 2}


@quick
@given(st.lists(st.sets(st.integers(0, 4), max_size=3), max_size=40), st.integers(1, 6))
def test_as_many_photos_of_each_class_as_it_has_slots(shown, most):
    chosen = choose([(None, tuple(sorted(classes))) for classes in shown], most)
    assert chosen == sorted(set(chosen))
    counts = np.bincount([label for index in chosen for label in shown[index]], minlength=5)
    for label, count in enumerate(counts):
        assert count >= min(most, sum(label in classes for classes in shown))
    assert len(chosen) <= 5 * most
