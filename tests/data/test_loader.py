import numpy as np
import pytest
import torch
from helpers import write_photo

from stcl_cli.config import SegtrainConfig, TrainConfig
from stcl_cli.data.loader import TrainingViews, read_photo_mask, training_batches
from stcl_cli.data.photos import Photo
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats.masks import write_mask

CPU = torch.device("cpu")
MEAN = torch.tensor([3.0, 2.0, 1.0]).view(1, 3, 1, 1)


@pytest.fixture
def photos(tmp_path):
    """Five photos of noise; photo i is the only one whose red is 40 i."""
    photos = []
    for index in range(5):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 24, 3)).astype(np.uint8)
        pixels[:, :, 0] = 40 * index
        photos.append(Photo(f"p{index}", write_photo(tmp_path / f"p{index}.png", pixels)))
    return photos


def views_of(photos, **settings):
    settings = {"crop_size": 16, "rescale": (1.0, 1.0), "batch_size": 2, "workers": 0} | settings
    config = TrainConfig(images="", labels="", output="", **settings)
    views = TrainingViews(photos, config, MEAN, labels=np.eye(len(photos), dtype=np.float32))
    return views, training_batches(views, config, CPU)


def equal(a, b):
    return all(torch.equal(a[key], b[key]) for key in ("photo", "box", "labels")) and a["failures"] == b["failures"]


def test_batches_depend_on_seed_and_iteration_alone(photos):
    batches = list(views_of(photos)[1](0, 6))
    assert batches[0]["photo"].shape == (2, 3, 16, 16)
    assert batches[0]["photo"].dtype == torch.uint8
    again = {
        "two processes": list(views_of(photos, workers=2)[1](0, 6)),
        "resumed": [*views_of(photos)[1](0, 4), *views_of(photos)[1](4, 6)],
    }
    for other in again.values():
        assert all(map(equal, batches, other))
    assert not equal(batches[0], next(iter(views_of(photos, seed=1)[1](0, 1))))


def test_an_epoch_shows_every_photo_once_and_epochs_differ(photos):
    shown = torch.cat([batch["labels"].argmax(1) for batch in views_of(photos)[1](0, 10)]).reshape(4, 5)
    assert shown.sort(1).values.eq(torch.arange(5)).all()
    assert len(set(map(tuple, shown.tolist()))) > 1


def test_a_photo_is_cut_anew_at_every_draw(photos):
    views, _ = views_of(photos)
    assert len({views[2, draw]["photo"].numpy().tobytes() for draw in range(6)}) > 1


def test_labels_belong_to_the_photo_shown(photos):
    for batch in views_of(photos)[1](0, 5):
        assert torch.equal(batch["photo"][:, 0].flatten(1).amax(1), 40 * batch["labels"].argmax(1))


def test_an_unusable_photo_is_reported_and_the_next_one_stands_in(photos):
    photos[4].path.write_bytes(b"no photo")
    views, batches = views_of(photos)
    item = views[4, 0]
    assert item["labels"].argmax() == 0
    assert item["photo"][0].eq(0).all()
    ((name, reason),) = item["failures"]
    assert name == "p4"
    assert str(photos[4].path) in reason
    assert [failure for batch in batches(0, 5) for failure in batch["failures"]] == [(name, reason)] * 2  # two epochs


def test_no_usable_photo_at_all(photos):
    for photo in photos:
        photo.path.write_bytes(b"")
    with pytest.raises(StclError, match=r"none of the 5 photos can be used; the first: .*p2.png"):
        views_of(photos)[0][2, 0]


def test_masks_come_cut_like_their_photos_and_padding_is_ignored(photos, tmp_path):
    masks = [tmp_path / f"{photo.name}-mask.png" for photo in photos]
    for index, path in enumerate(masks):
        write_mask(path, np.full((20, 24), index, np.uint8))
    config = SegtrainConfig(images="", masks="", output="", crop_size=32, rescale=(1.0, 1.0), batch_size=5, workers=0)
    views = TrainingViews(photos, config, MEAN, masks=masks, classes=4)
    (batch,) = training_batches(views, config, CPU)(0, 1)
    assert batch["mask"].dtype == torch.uint8
    padding = batch["mask"] == 255
    assert padding.flatten(1).sum(1).eq(32 * 32 - 20 * 24).all()
    assert torch.equal(batch["photo"][:, 0][~padding], 40 * batch["mask"][~padding])
    assert torch.equal(batch["photo"].movedim(1, -1)[padding].unique(dim=0), torch.tensor([[3, 2, 1]]).byte())

    write_mask(masks[3], np.zeros((24, 20), np.uint8))
    ((name, reason),) = views[3, 0]["failures"]
    assert name == "p3"
    assert "the mask is 20 x 24, its photo 24 x 20" in reason


def test_a_mask_has_to_fit_its_photo_and_the_classes(photos, tmp_path):
    mask = np.zeros((20, 24), np.uint8)
    mask[:10], mask[0, 0] = 3, 255
    write_mask(tmp_path / "mask.png", mask)
    assert np.array_equal(read_photo_mask(tmp_path / "mask.png", photos[0], (20, 24), 3), mask)
    reduced = read_photo_mask(tmp_path / "mask.png", photos[0], (10, 12), 3)
    assert np.array_equal(reduced[1:], np.repeat([[3], [0]], [4, 5], 0) * np.ones((1, 12)))
    with pytest.raises(PhotoError, match=r"mask.png: holds class 3, but there are 2 classes"):
        read_photo_mask(tmp_path / "mask.png", photos[0], (20, 24), 2)
