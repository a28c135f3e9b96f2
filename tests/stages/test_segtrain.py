import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers import stopped_after
from safetensors.torch import load_file

from stcl_cli.config import SegtrainConfig
from stcl_cli.errors import StclError
from stcl_cli.formats.masks import read_mask, write_mask
from stcl_cli.formats.photo_labels import read_photo_labels
from stcl_cli.stages import segtrain

NAMES = ("a", "sub dir/bär 01", "sub dir/c.v1")


def test_segtrain_starts_from_the_backbone_of_a_run(trained, tmp_path):
    config = SegtrainConfig(
        images=str(trained.photos), masks=str(trained.root / "truth"), output=str(tmp_path / "seg"),
        init=str(trained.run),
        device="cpu", iterations=1, batch_size=1, crop_size=32, lr=1e-12, warmup=0.0,
    )  # fmt: skip
    segtrain.run(config)
    before = load_file(trained.run / "checkpoints" / "last.safetensors")
    after = load_file(tmp_path / "seg" / "checkpoints" / "last.safetensors")
    name = "blocks.0.attn.qkv.weight"
    assert after[f"model.encoder.vit.{name}"].allclose(before[f"model.backbone.vit.{name}"], atol=1e-6)


def test_a_mask_of_another_size_is_skipped(trained, tmp_path):
    for name in NAMES:
        mask = read_mask(trained.root / "truth" / f"{name}.png")
        write_mask(tmp_path / "masks" / f"{name}.png", mask[:20] if name == "a" else mask)
    (tmp_path / "masks" / "classes.txt").write_text("cat\ndog\n")
    config = SegtrainConfig(
        images=str(trained.photos), masks=str(tmp_path / "masks"), output=str(tmp_path / "seg"), encoder="stcl_tiny",
        pretrained=False, device="cpu", iterations=3, batch_size=1, crop_size=32,
    )  # fmt: skip
    assert segtrain.run(config).skipped == 1


def test_a_training_goes_on_with_its_own_photos_alone(trained, tmp_path):
    """Among other photos, or other ones with a mask, the rest of the batches would be drawn anew."""
    shutil.copytree(trained.root / "truth", tmp_path / "masks")
    config = SegtrainConfig(
        images=str(trained.photos), masks=str(tmp_path / "masks"), output=str(tmp_path / "seg"), encoder="stcl_tiny",
        pretrained=False, device="cpu", iterations=3, batch_size=1, crop_size=32, save_every=1,
    )  # fmt: skip
    with stopped_after(1, segtrain):
        segtrain.run(config)
    (tmp_path / "masks" / "a.png").rename(tmp_path / "a.png")
    with pytest.raises(StclError, match=r"seg: was begun with other photos to learn from \(3, now 2\); go on with"):
        segtrain.run(replace(config, resume=True))
    (tmp_path / "a.png").rename(tmp_path / "masks" / "a.png")
    segtrain.run(replace(config, resume=True))
    (tmp_path / "masks" / "a.png").unlink()
    segtrain.run(replace(config, resume=True))  # has ended, and stays as it is
    assert list(read_photo_labels(tmp_path / "seg")) == list(NAMES)


def test_a_network_that_pools_to_one_pixel_needs_two_photos(trained, tmp_path):
    config = SegtrainConfig(
        images=str(trained.photos), masks=str(trained.root / "truth"), output=str(tmp_path / "seg"),
        arch="deeplabv3plus", encoder="resnet18", pretrained=False, device="cpu", iterations=1, crop_size=64,
        batch_size=2, accumulate=2,
    )  # fmt: skip
    with pytest.raises(
        StclError, match=r"--arch deeplabv3plus: norms over a batch, of at least 2 photos; raise --batch"
    ):
        segtrain.run(config)
    assert not (tmp_path / "seg").exists()
    segtrain.run(replace(config, accumulate=1))


@pytest.mark.parametrize("value", [0, 255])
def test_masks_of_background_alone_teach_nothing(trained, tmp_path, value):
    for name in NAMES:
        write_mask(tmp_path / "masks" / f"{name}.png", np.full((40, 56), value, np.uint8))
    (tmp_path / "masks" / "classes.txt").write_text("cat\n")
    config = SegtrainConfig(
        images=str(trained.photos), masks=str(tmp_path / "masks"), output=str(tmp_path / "seg"), device="cpu"
    )
    with pytest.raises(StclError, match=r"all background \(0\) or ignored \(255\): there is nothing to learn; an obj"):
        segtrain.run(config)
    assert not (tmp_path / "seg").exists()


@pytest.mark.parametrize(
    ("encoder", "crop_size", "enough"),
    [("skresnet18", 64, {"batch_size": 2}), ("mobilenetv3_small_050", 32, {"crop_size": 64})],
    ids=["encoder that pools", "small crop"],
)
def test_one_photo_may_be_too_little_to_norm(trained, tmp_path, encoder, crop_size, enough):
    config = SegtrainConfig(
        images=str(trained.photos), masks=str(trained.root / "truth"), output=str(tmp_path / "seg"), arch="unet",
        encoder=encoder, pretrained=False, device="cpu", iterations=1, crop_size=crop_size, batch_size=1,
    )  # fmt: skip
    with pytest.raises(StclError, match=r"--arch unet: norms over a batch, of at least 2 photos; raise --batch"):
        segtrain.run(config)
    assert not (tmp_path / "seg").exists()
    segtrain.run(replace(config, **enough))
