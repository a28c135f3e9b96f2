import numpy as np
import pytest
import torch
from helpers import quick
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from stcl_cli.presence import BINS, PRIOR, SHARE, best_thresholds, count_probabilities, shown_probability
from stcl_models.memory_bank import BankView


def bank(known, offset):
    """A view of which only what is asked for is filled in."""
    discriminant = torch.tensor(known, dtype=torch.float32)[:, None].expand(-1, 4)
    nothing = torch.zeros(0)
    return BankView(nothing, nothing, nothing, nothing, discriminant, torch.tensor(offset), nothing)


@pytest.mark.parametrize("patches", [7, 300])
def test_against_a_loop(patches):
    rng = np.random.default_rng(patches)
    score, offset = rng.normal(size=(4, patches)) * 3, rng.normal(size=4)
    classifier = rng.uniform(size=3)
    known = [True, True, False, True]
    found = shown_probability(
        torch.from_numpy(classifier).float(),
        torch.from_numpy(score).float(),
        bank(known, offset.astype(np.float32).tolist()),
    )
    for label in range(3):
        if not known[label + 1]:
            assert found[label] == pytest.approx(classifier[label])
            continue
        says = []
        for patch in range(patches):
            odds = [np.exp(score[row, patch] + offset[row]) for row in (0, 1, 3)]
            says.append(np.exp(score[label + 1, patch] + offset[label + 1]) / sum(odds))
        best = sorted(says)[-max(1, round(SHARE * patches)) :]
        assert found[label] == pytest.approx(np.sqrt(classifier[label] * np.mean(best)), rel=1e-4)


def test_a_memory_without_background_says_nothing():
    classifier = torch.tensor([0.2, 0.9])
    assert torch.equal(
        shown_probability(classifier, torch.randn(3, 5), bank([False, True, True], [0.0, 0.0, 0.0])), classifier
    )


def counted(probability_PC, shown_PC):
    return sum(
        count_probabilities(torch.tensor(of_photo), torch.tensor(shown).nonzero()[:, 0])
        for of_photo, shown in zip(probability_PC, shown_PC, strict=True)
    )


@quick
@given(
    st.integers(1, 4).flatmap(
        lambda classes: st.lists(
            st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=classes, max_size=classes),
            min_size=1,
            max_size=8,
        )
    )
)
def test_the_best_of_all_thresholds_by_a_loop(photos):
    probability_PC = np.float32([[probability for probability, _ in photo] for photo in photos])
    shown_PC = np.array([[shown for _, shown in photo] for photo in photos])
    counts = counted(probability_PC.tolist(), shown_PC.tolist())
    assert counts.sum((0, 2)).tolist() == [len(photos)] * shown_PC.shape[1]
    assert counts[0].sum(1).tolist() == shown_PC.sum(0).tolist()
    bins = (probability_PC * np.float32(BINS)).astype(int).clip(0, BINS - 1)
    for label, found in enumerate(best_thresholds(counts).tolist()):
        own, scores = shown_PC[:, label], []
        for at in range(1, BINS):
            of_all = f1_score(shown_PC.ravel(), (bins >= at).ravel(), zero_division=0)
            named = bins[:, label] >= at
            right = (own & named).sum()
            scores.append((2 * right + PRIOR * of_all) / (named.sum() + own.sum() + PRIOR))
        best = [at / BINS for at, score in enumerate(scores, 1) if score >= max(scores) - 1e-9]
        assert found == pytest.approx(min(best, key=lambda at: abs(at - 0.5)))


def test_the_nearest_to_one_half_where_all_is_found_anyway():
    def best(*photos):
        return best_thresholds(counted([[one] for one, _ in photos], [[shown] for _, shown in photos])).tolist()

    assert best((0.9, True), (0.1, False)) == [0.5]
    assert best((0.3, True), (0.1, False)) == pytest.approx([0.3])
    assert best((0.9, True), (0.7, False)) == pytest.approx([0.705])
    assert best_thresholds(torch.zeros(2, 3, BINS, dtype=torch.long)).tolist() == [0.5] * 3


def test_a_rare_class_leans_on_the_others():
    common, rare = [[0.9, 0.0]] * 50 + [[0.6, 0.0]] * 50, [[0.0, 0.2], [0.0, 0.65]]
    shown = [[True, False]] * 50 + [[False, False]] * 50 + [[False, True], [False, False]]
    first, second = best_thresholds(counted(common + rare, shown)).tolist()
    assert first == pytest.approx(0.655)
    assert second == pytest.approx(0.655)  # by itself 0.2 would be its best
