import numpy as np
import pytest
import torch
from helpers import quick
from hypothesis import given
from hypothesis import strategies as st
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from stcl_cli import discriminants as module
from stcl_cli.discriminants import (
    BACKGROUND_LEAD,
    KEPT,
    RIDGE,
    ROUNDS,
    STRANGERS,
    TEMPER,
    fisher_discriminants,
    learn_discriminants,
)

E = 8


def tokens(count: int, seed: int, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """(S,E) and the class of each."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.arange(count) % classes
    centre = torch.randn(classes, E, generator=torch.Generator().manual_seed(9))
    return centre[own] + torch.randn(count, E, generator=generator), own


@quick
@given(st.integers(0, 1000), st.sampled_from([7, 2**13]))
def test_the_discriminants_are_scikit_learn_s(seed, chunk):
    token_SE, class_S = tokens(90, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        discriminant, offset = fisher_discriminants(token_SE, class_S, 3)
    # Its shrinkage s is our ridge r = s / (1 - s), but for the scale.
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=RIDGE / (1 + RIDGE)).fit(token_SE.double(), class_S)
    scale = TEMPER / (1 + RIDGE)
    np.testing.assert_allclose(discriminant, scale * oracle.coef_, rtol=1e-3, atol=1e-4)
    own_offset = scale * (oracle.intercept_ - np.log(oracle.priors_))
    own_offset[0] += BACKGROUND_LEAD
    np.testing.assert_allclose(offset, own_offset, rtol=1e-3, atol=1e-4)


def test_a_class_without_tokens_has_no_discriminant_and_tokens_that_do_not_spread_are_read_too():
    rows = torch.eye(E)[:2]
    discriminant, offset = fisher_discriminants(rows, torch.tensor([0, 1]), 3)
    assert discriminant.isfinite().all()
    assert not discriminant[2].any()
    assert offset[2] == 0
    assert (rows @ discriminant[:2].t() + offset[:2]).argmax(1).tolist() == [0, 1]
    nothing, _ = fisher_discriminants(rows[:0], torch.zeros(0, dtype=torch.long), 3)
    assert not nothing.any()


@quick
@given(st.integers(0, 1000))
def test_which_tokens_it_learns_from_against_loops(seed):
    """In float64, token by token; the discriminants of the tokens that are left are the oracle's as above."""
    token_SE, class_S = tokens(240, seed, classes=4)
    generator = torch.Generator().manual_seed(seed)
    class_S[torch.rand(240, generator=generator) < 0.2] = -1
    photo_S = torch.arange(240) // 12
    labels_PK = torch.randint(0, 4, (20, 2), generator=generator)
    x, y, shown = token_SE.double().numpy(), class_S.numpy(), [set(row) for row in labels_PK.tolist()]
    kept = y >= 0
    for _ in range(ROUNDS):
        means = {c: x[kept & (y == c)].mean(0) for c in range(4)}
        deviations = [x[i] - means[y[i]] for i in np.flatnonzero(kept)]
        spread = sum(np.outer(d, d) for d in deviations) / len(deviations)
        inverse = np.linalg.inv(spread + RIDGE * np.trace(spread) / E * np.eye(E))
        kept = y == 0
        for c in range(1, 4):
            strangers = [i for i in range(240) if c not in shown[photo_S[i]]]
            toward = inverse @ (means[c] - np.mean([x[i] for i in strangers], 0))
            least = sorted(x[i] @ toward for i in strangers)[int(STRANGERS * len(strangers))]
            own = [i for i in range(240) if y[i] == c and x[i] @ toward >= least - 1e-6]
            own = own or [i for i in range(240) if y[i] == c]
            own.sort(key=lambda i: -x[i] @ inverse @ (means[c] - means[0]))
            kept[own[: max(1, int(KEPT * len(own)))]] = True
    found = learn_discriminants(token_SE, class_S, photo_S, labels_PK, 4)
    for value, expected in zip(found, fisher_discriminants(token_SE[kept], torch.from_numpy(y[kept]), 4), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)


def test_what_is_in_other_photos_too_is_no_part_of_a_class():
    """Boats and water, of which the first regions know no difference; water is in photos of birds as well."""
    generator = torch.Generator().manual_seed(0)
    sky, boat, bird, water = torch.eye(E)[:4] * 6
    photos = [([sky] * 6 + [boat] * 6 + [water] * 6, [0] * 6 + [1] * 12, [1])] * 20
    photos += [([sky] * 6 + [water] * 6 + [bird] * 6, [0] * 6 + [-1] * 6 + [2] * 6, [2])] * 20
    token_SE = torch.stack([token for row, _, _ in photos for token in row])
    token_SE = token_SE + torch.randn(token_SE.shape, generator=generator)
    class_S = torch.tensor([label for _, row, _ in photos for label in row])
    labels_PK = torch.tensor([shown for _, _, shown in photos])
    photo_S = torch.arange(len(token_SE)) // 18
    discriminant, offset = learn_discriminants(token_SE, class_S, photo_S, labels_PK, 3)
    plain, plain_offset = fisher_discriminants(token_SE[class_S >= 0], class_S[class_S >= 0], 3)
    lead = [w[1] @ water + b[1] - w[0] @ water - b[0] for w, b in ((plain, plain_offset), (discriminant, offset))]
    assert lead[0] > 0 > lead[1]
    assert (discriminant[1] - discriminant[0]) @ boat + offset[1] - offset[0] > 0


def test_where_all_photos_show_a_class_or_nothing_is_sure():
    token_SE, class_S = tokens(90, 0, classes=2)
    everywhere = learn_discriminants(token_SE, class_S, torch.arange(90) // 9, torch.ones(10, 1, dtype=torch.long), 2)
    assert all(value.isfinite().all() for value in everywhere)
    assert ((token_SE @ everywhere[0].t() + everywhere[1]).argmax(1) == class_S).float().mean() > 0.8
    none = learn_discriminants(token_SE, -torch.ones(90).long(), torch.arange(90) // 9, torch.ones(10, 1).long(), 2)
    assert not none[0].any()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_learns_the_same():
    token_SE, class_S = tokens(240, 3, classes=4)
    given = token_SE, class_S, torch.arange(240) // 12, torch.arange(40).view(20, 2) % 4
    here, there = learn_discriminants(*given, 4), learn_discriminants(*(value.cuda() for value in given), 4)
    for value, other in zip(here, there, strict=True):
        torch.testing.assert_close(other.cpu(), value, rtol=1e-3, atol=1e-3)
