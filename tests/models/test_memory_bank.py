import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stcl_models.memory_bank import DOUBTED, TRUSTED, Entries, MemoryBank

WIDTH = 4
QUALITIES = [i / 16 for i in range(1, 17)]  # exact in float32


def entries(*rows: tuple[int, float], photo: int = 0, seed: int = 0) -> Entries:
    """(class, quality) of each entry, with random unit embeddings."""
    generator = torch.Generator().manual_seed(seed)
    embedding = F.normalize(torch.randn(len(rows), WIDTH, generator=generator), dim=1)
    classes, qualities = zip(*rows, strict=True) if rows else ((), ())
    return Entries(
        embedding, torch.tensor(classes, dtype=torch.long), torch.tensor(qualities), torch.full((len(rows),), photo)
    )


def test_nothing_is_remembered_before_the_first_update_and_no_entry_changes_nothing():
    bank = MemoryBank(3, WIDTH, slots=2)
    before = {name: value.clone() for name, value in bank.state_dict().items()}
    bank.update(entries(), step=0)
    assert all(torch.equal(before[name], value) for name, value in bank.state_dict().items())
    assert not bank.view().filled_CM.any()
    assert not bank.view().prototype_CE.any()


def test_an_empty_one_has_the_same_settings_and_holds_nothing():
    bank = MemoryBank(3, WIDTH, slots=4, adaptive=False, half_life=7)
    bank.update(entries((1, 0.5)), step=3)
    empty = bank.empty()
    assert (empty.adaptive, empty.half_life, empty.embedding.shape) == (False, 7, bank.embedding.shape)
    fresh = MemoryBank(3, WIDTH, slots=4).state_dict()
    assert all(torch.equal(fresh[name], value) for name, value in empty.state_dict().items())


def test_several_entries_of_a_class_in_one_batch_take_different_slots():
    bank = MemoryBank(3, WIDTH, slots=4, adaptive=False)
    batch = entries((1, 0.5), (2, 0.6), (1, 0.7), (1, 0.8))
    bank.update(batch, step=3)
    view = bank.view()
    assert view.filled_CM.sum(1).tolist() == [0, 3, 1]
    assert sorted(view.quality_CM[1, :3].tolist()) == pytest.approx([0.5, 0.7, 0.8])
    stored = {tuple(row.tolist()) for row in view.embedding_CME[1, :3]}
    assert stored == {tuple(batch.embedding_RE[i].tolist()) for i in (0, 2, 3)}


def test_first_in_first_out_gives_up_the_oldest_and_adaptive_the_least_valuable():
    for adaptive, survivor in ((False, 0.2), (True, 0.9)):
        bank = MemoryBank(2, WIDTH, slots=2, adaptive=adaptive)
        same = entries((1, 0.9))
        bank.update(same, step=0)
        bank.update(same._replace(quality_R=torch.tensor([0.2])), step=1)
        bank.update(same._replace(quality_R=torch.tensor([0.5])), step=2)
        assert sorted(bank.quality[1].tolist()) == pytest.approx(sorted([survivor, 0.5]))


def test_a_good_entry_loses_its_value_with_age():
    bank = MemoryBank(2, WIDTH, slots=2, half_life=1)
    same = entries((1, 0.9))
    bank.update(same, step=0)
    bank.update(same._replace(quality_R=torch.tensor([0.4])), step=10)
    bank.update(same._replace(quality_R=torch.tensor([0.6])), step=11)
    assert sorted(bank.quality[1].tolist()) == pytest.approx([0.4, 0.6])


def test_an_outlier_is_refused_by_the_adaptive_update_only():
    inlier = F.normalize(torch.tensor([[1.0, 0.1, 0, 0]]), dim=1)
    for adaptive, kept in ((True, 8), (False, 9)):
        bank = MemoryBank(2, WIDTH, slots=16, adaptive=adaptive)
        for step in range(8):
            embedding = F.normalize(inlier + 0.02 * torch.randn(1, WIDTH).abs(), dim=1)
            entry = Entries(embedding, torch.tensor([1]), torch.tensor([0.9]), torch.tensor([step]))
            bank.adaptive = False  # the gate would refuse some of these
            bank.update(entry, step)
        bank.adaptive = adaptive
        bank.update(Entries(-inlier, torch.tensor([1]), torch.tensor([0.9]), torch.tensor([9])), 9)
        assert bank.view().filled_CM[1].sum() == kept


def test_the_gate_against_a_naive_one():
    """An entry passes within a standard deviation of the running mean of its class's cosines, or above."""
    torch.manual_seed(0)
    bank, moments, refused = MemoryBank(3, WIDTH, slots=64), {}, 0
    for step in range(12):
        class_R = torch.randint(1, 3, (5,))
        embedding_RE = F.normalize(torch.tensor([1.0, 0, 0, 0]) + 0.4 * torch.randn(5, WIDTH), dim=1)
        prototype_CE = bank.prototype.clone()
        bank.update(Entries(embedding_RE, class_R, torch.full((5,), 0.9), 100 * step + torch.arange(5)), step)
        for c in (1, 2):
            cosines = {100 * step + r: float(embedding_RE[r] @ prototype_CE[c]) for r in range(5) if class_R[r] == c}
            kept = set(cosines)
            if prototype_CE[c].any() and cosines:
                mean, square = moments.get(c, (0.0, 0.0))
                deviation = max(square - mean**2, 0) ** 0.5
                kept = {photo for photo, cosine in cosines.items() if cosine >= mean - deviation}
                new = [sum(v**power for v in cosines.values()) / len(cosines) for power in (1, 2)]
                moments[c] = [0.95 * old + 0.05 * one for old, one in zip((mean, square), new, strict=True)]
                moments[c] = moments[c] if square else new
            refused += len(cosines) - len(kept)
            photo_M = bank.photo[c]
            assert set(photo_M[photo_M >= 100 * step].tolist()) == kept
    assert 5 < refused < 30


@pytest.mark.parametrize(("adaptive", "kept"), [(True, [0.4, 0.7]), (False, [0.2, 0.3])])
def test_of_more_entries_than_slots_in_one_batch_the_best_or_the_last_are_kept(adaptive, kept):
    bank = MemoryBank(2, WIDTH, slots=2, adaptive=adaptive)
    bank.update(entries((1, 0.4), (1, 0.7), (0, 0.1), (1, 0.2), (1, 0.3)), step=0)
    assert sorted(bank.quality[1].tolist()) == pytest.approx(kept)
    assert bank.stored.tolist() == [1, 2]  # what had no slot was not stored


@settings(max_examples=40)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.sampled_from([i / 16 for i in range(1, 17)])), max_size=6), max_size=8
    ),
    st.booleans(),
    st.integers(1, 4),
)
def test_against_a_naive_bank(batches, adaptive, slots):
    """Places, replacement and prototypes against plain Python loops; the gate is left out by one embedding for all."""
    bank = MemoryBank(4, WIDTH, slots=slots, adaptive=adaptive, half_life=1)
    direction = F.normalize(torch.ones(1, WIDTH), dim=1)
    naive: dict[int, list[tuple[float, int]]] = {c: [] for c in range(4)}  # (quality, step), in slot order
    for step, rows in enumerate(batches):
        batch = entries(*rows)
        bank.update(batch._replace(embedding_RE=direction.expand(len(rows), -1)), step)
        values = {
            c: [(max(q, 1e-3) * 0.5 ** (step - t) if adaptive else t) for q, t in kept] for c, kept in naive.items()
        }
        for c in range(4):
            new = [(q, step) for own, q in rows if own == c]
            wanted = sorted(range(len(new)), key=lambda i: (-new[i][0], i) if adaptive else -i)[:slots]
            new = [new[i] for i in sorted(wanted)]
            free = slots - len(naive[c])
            order = sorted(range(len(naive[c])), key=lambda i: (values[c][i], i))
            for number, entry in enumerate(new):
                if number < free:
                    naive[c].append(entry)
                else:
                    naive[c][order[number - free]] = entry
    for c in range(4):
        filled = bank.view().filled_CM[c]
        found = sorted(zip(bank.quality[c][filled].tolist(), bank.stored_at[c][filled].tolist(), strict=True))
        assert [t for _, t in found] == [t for _, t in sorted(naive[c])]
        assert [q for q, _ in found] == pytest.approx([q for q, _ in sorted(naive[c])])
        if naive[c]:
            torch.testing.assert_close(bank.prototype[c], direction[0])


def test_the_prototype_is_the_mean_by_value():
    bank = MemoryBank(2, WIDTH, slots=4)
    embedding = torch.eye(WIDTH)[:2]
    bank.update(Entries(embedding, torch.tensor([1, 1]), torch.tensor([0.9, 0.3]), torch.tensor([0, 1])), 0)
    torch.testing.assert_close(bank.prototype[1], F.normalize(torch.tensor([0.9, 0.3, 0, 0]), dim=0))
    assert bank.trust.tolist() == [0, 1]


def test_a_memory_of_poor_entries_is_trusted_less():
    bank = MemoryBank(4, WIDTH, slots=4)
    bank.update(entries((1, DOUBTED - 0.1), (2, (DOUBTED + TRUSTED) / 2), (3, TRUSTED + 0.1)), 0)
    assert bank.trust.tolist() == pytest.approx([0, 0, 0.5, 1])


def test_what_it_says_of_a_token_by_hand():
    """Four times the cosine over the mean distance to background, which is ahead by a fifth of that distance."""
    bank = MemoryBank(4, 3, slots=1)
    embedding = F.normalize(torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [0.6, 0, 0.8]]), dim=1)  # 0.2 and 0.4 apart
    bank.update(Entries(embedding, torch.arange(3), torch.full((3,), 0.9), torch.zeros(3, dtype=torch.long)), 0)
    bank.offset.fill_(9)  # of something else that was learnt
    bank.read_by_prototypes()
    view, token = bank.view(), torch.tensor([0.2, 0.5, 0.3])
    cosine = embedding @ token
    expected = 4 / 0.3 * (cosine + torch.tensor([0.2 * 0.3, 0, 0]))
    torch.testing.assert_close((view.discriminant_CE @ token + view.offset_C)[:3], expected)
    assert not view.discriminant_CE[3].any()


def test_tokens_that_lie_close_together_are_read_the_same():
    """Where all have a large part in common, every 1 - cosine is a tenth of what it was."""
    few, near = MemoryBank(4, WIDTH, slots=1), MemoryBank(4, WIDTH + 1, slots=1)
    one = entries(*((c, 0.9) for c in range(4)))
    common = F.normalize(torch.cat([one.embedding_RE, torch.full((4, 1), 3.0)], 1), dim=1)
    few.update(one, 0)
    near.update(one._replace(embedding_RE=common), 0)
    token = F.normalize(torch.tensor([0.2, -0.5, 0.3, 0.1]), dim=0)
    alike = F.normalize(torch.cat([token, torch.tensor([3.0])]), dim=0)
    read, read_near = (F.softmax(b.discriminant @ t + b.offset, 0) for b, t in ((few, token), (near, alike)))
    torch.testing.assert_close(read, read_near, atol=1e-4, rtol=1e-3)


def test_everything_is_in_the_state_and_comes_back():
    bank, copy = MemoryBank(3, WIDTH, slots=3), MemoryBank(3, WIDTH, slots=3)
    bank.update(entries((0, 0.5), (1, 0.7), (2, 0.9), seed=1), 4)
    copy.load_state_dict(bank.state_dict())
    for one in (bank, copy):
        one.update(entries((0, 0.5), (1, 0.7), (1, 0.2), seed=2), 5)
    assert all(torch.equal(a, b) for a, b in zip(bank.state_dict().values(), copy.state_dict().values(), strict=True))


def test_statistics_of_an_empty_and_of_a_filled_bank():
    bank = MemoryBank(3, WIDTH, slots=2, adaptive=False)
    assert set(bank.statistics().values()) == {0.0}
    row = torch.eye(WIDTH)[:1]
    for step in range(3):
        bank.update(Entries(row, torch.tensor([1]), torch.tensor([0.5]), torch.tensor([7])), step)
    figures = bank.statistics()
    assert figures["fill"] == 1
    assert figures["quality"] == 0.5
    assert figures["within"] == 1
    assert figures["replaced"] == pytest.approx(1 / 3, abs=1e-3)
    assert figures["refused"] == 0
