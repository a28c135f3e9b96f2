import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stcl_cli.memory import (
    discriminants_of,
    fuse,
    memory_maps,
    nearest_own_class,
    region_embeddings,
    region_masks,
    region_of_patches,
    region_quality,
)
from stcl_models.memory_bank import BankView, Entries, MemoryBank

B, C, H, W, E = 2, 5, 4, 6, 8


SLOTS = torch.tensor([[0, 2], [3, -1]])


def a_bank(missing: tuple[int, ...] = ()) -> BankView:
    torch.manual_seed(0)
    discriminant, offset = torch.randn(C, E), torch.randn(C)
    discriminant[list(missing)], offset[list(missing)] = 0, 0
    trust = discriminant.any(1) * torch.linspace(0.5, 1, C)
    slots = torch.zeros(C, 1, E), torch.zeros(C, 1), torch.zeros(C, 1, dtype=torch.bool)
    return BankView(*slots, torch.zeros(C, E), discriminant, offset, trust)


def scores(bank: BankView, slots_BK: torch.Tensor = SLOTS) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.einsum("bhwe,bre->brhw", torch.randn(B, H, W, E), discriminants_of(bank, slots_BK))


def test_maps_are_probabilities_that_leave_room_for_background():
    bank = a_bank()
    maps, trust = memory_maps(scores(bank), bank, SLOTS)
    assert trust.tolist() == [[0.625, 0.875], [1.0, 0.0]]
    assert maps.shape == (B, 2, H, W)
    assert (maps >= 0).all()
    assert (maps.sum(1) < 1).all()
    assert (maps[1, 1] == 0).all()


def test_a_patch_on_a_prototype_is_that_class_and_one_on_background_is_none():
    prototype, bank = torch.eye(C, E), MemoryBank(C, E, slots=1)
    bank.update(Entries(prototype, torch.arange(C), torch.full((C,), 0.9), torch.zeros(C, dtype=torch.long)), 0)
    view, slots_BK = bank.view(), torch.tensor([[0, 2]])
    on = (discriminants_of(view, slots_BK)[0] @ prototype[[0, 1, 3]].T)[None, :, None]  # patches on classes 0, 1 and 3
    maps, _ = memory_maps(on, view, slots_BK)
    assert maps[0, :, 0].argmax(0).tolist()[1:] == [0, 1]
    assert (maps[0, :, 0].amax(0) > 0.7).tolist() == [False, True, True]


def test_maps_by_hand():
    bank = a_bank()
    score = torch.tensor([0.5, 0.6, 0.4])
    maps, _ = memory_maps(score.view(1, 3, 1, 1), bank, torch.tensor([[0, 2]]))
    weight = torch.exp(score + bank.offset_C[[0, 1, 3]])
    torch.testing.assert_close(maps.flatten(), weight[1:] / weight.sum())


def test_classes_without_tokens_and_a_memory_without_background_give_no_map():
    bank = a_bank((1,))
    maps, trust = memory_maps(scores(bank), bank, SLOTS)
    assert (trust > 0).tolist() == [[False, True], [True, False]]
    assert (maps[0, 0] == 0).all()
    bank = a_bank((0,))
    _, trust = memory_maps(scores(bank), bank, SLOTS)
    assert not trust.any()
    maps, trust = memory_maps(torch.zeros(B, 3, H, W), a_bank(tuple(range(C))), SLOTS)
    assert not trust.any()
    assert maps.isfinite().all()


def test_the_order_of_labels_does_not_matter():
    bank = a_bank()
    maps, _ = memory_maps(scores(bank), bank, SLOTS)
    turned, _ = memory_maps(scores(bank, SLOTS.flip(1)), bank, SLOTS.flip(1))
    torch.testing.assert_close(maps, turned.flip(1))


def test_fuse_keeps_the_cam_of_what_the_memory_does_not_know():
    cam, memory = torch.rand(B, 2, H, W), torch.rand(B, 2, H, W)
    trust = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    fused = fuse(cam, memory, trust, 0.75)
    torch.testing.assert_close(fused[0, 0], 0.25 * cam[0, 0] + 0.75 * memory[0, 0])
    assert torch.equal(fused[0, 1], cam[0, 1])
    torch.testing.assert_close(fused[1, 0], 0.625 * cam[1, 0] + 0.375 * memory[1, 0])
    assert torch.equal(fuse(cam, memory, trust, 0.0), cam)


@settings(max_examples=50)
@given(st.integers(0, 1000))
def test_regions_are_apart_and_follow_their_definition(seed):
    torch.manual_seed(seed)
    maps = torch.rand(B, 2, H, W)
    valid = torch.rand(B, H, W) < 0.8
    masks, classes = region_masks(maps, SLOTS, valid, 0.3, 0.6)
    assert classes.tolist() == [[0, 1, 3], [0, 4, -1]]
    assert masks.sum(1).max() <= 1
    for b in range(B):
        for y in range(H):
            for x in range(W):
                values = maps[b, :, y, x]
                own = masks[b, :, y * W + x]
                best = int(values.argmax())
                assert bool(own[0]) == bool(valid[b, y, x] and values.max() <= 0.3)
                sure = valid[b, y, x] and values[best] >= 0.6 and SLOTS[b, best] >= 0
                assert bool(own[1 + best]) == bool(sure)


def test_no_patch_is_in_two_regions_where_one_score_parts_them():
    maps = torch.tensor([[[[1.0, 0.5, 0.5, 0.0]], [[0.0, 0.5, 0.0, 0.0]]]])
    masks, _ = region_masks(maps, torch.tensor([[0, 1]]), torch.ones(1, 1, 4, dtype=torch.bool), 0.5, 0.5)
    assert masks[0].tolist() == [[0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]


def test_embeddings_are_means_of_unit_length_and_an_empty_region_is_zero():
    key = F.normalize(torch.randn(1, 6, E), dim=-1)
    masks = torch.tensor([[[1.0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]])
    embedding = region_embeddings(key, masks, torch.zeros(E))
    torch.testing.assert_close(embedding[0, 0], F.normalize(key[0, :2].mean(0), dim=0))
    assert (embedding[0, 1] == 0).all()


def test_what_is_like_background_leaves_a_label_s_region_but_not_background_s():
    background, boat = torch.eye(2, E)
    water = F.normalize(background + 0.3 * boat, dim=0)
    key = torch.stack([boat, water, water, water])[None]
    masks = torch.ones(1, 2, 4)
    embedding = region_embeddings(key, masks, background)[0]
    weight = [(1 - float(token @ background)) ** 4 for token in key[0]]  # a naive oracle
    expected = F.normalize(sum(w * token for w, token in zip(weight, key[0], strict=True)), dim=0)
    torch.testing.assert_close(embedding, torch.stack([F.normalize(key[0].mean(0), dim=0), expected]))
    assert embedding[1] @ boat > 0.99
    assert embedding[0] @ water > 0.95


@pytest.mark.parametrize("apart", [1e-3, 1e-4, 1e-6, 0.0])
def test_an_embedding_has_unit_length_also_where_all_is_like_background(apart):
    background = F.normalize(torch.tensor([1.0, 0, 0]), dim=0)
    key = F.normalize(torch.tensor([[[1.0, (2 * apart) ** 0.5, 0]]]), dim=-1)
    masks = torch.ones(1, 2, 1)
    assert region_embeddings(key, masks, background).norm(dim=-1).tolist() == [pytest.approx([1, 1])]


def test_the_region_that_a_patch_is_in():
    masks = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]], [[0.0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]])
    found = region_of_patches(masks, torch.tensor([[0, 4, -1], [0, 2, 3]]))
    assert found.tolist() == [[0, 4, -1, 4], [3, -1, -1, -1]]


def test_quality_is_the_mean_map_times_the_class_probability():
    maps = torch.tensor([[[[0.9, 0.7, 0.1, 0.0]]]])
    masks = torch.tensor([[[0.0, 0, 1, 1], [1, 1, 0, 0]]])
    quality = region_quality(maps, masks, torch.tensor([[0.5]]))
    assert quality[0].tolist() == pytest.approx([0.95, 0.4])


def test_the_nearest_prototype_is_of_the_image_and_leads_by_the_difference():
    cosine = torch.tensor([[[0.1, 0.8], [0.5, 0.2], [0.9, 0.9], [0.3, 0.1]]])  # 4 classes, 2 patches
    classes = torch.tensor([[0, 1, 3, -1]])  # class 2, the most similar one, is not in the image
    nearest, lead = nearest_own_class(cosine, classes, torch.ones(4, dtype=torch.bool))
    assert nearest.tolist() == [[1, 0]]
    assert lead[0].tolist() == pytest.approx([0.2, 0.6])
    _, lead = nearest_own_class(cosine, classes, torch.tensor([False, True, True, False]))
    assert lead.tolist() == [[0, 0]]
