"""cam, refine and eval: stages that are tested by what they hand on."""

import json

import numpy as np
import pytest
from PIL import Image

from stcl_cli.config import CamConfig, EvalConfig, RefineConfig
from stcl_cli.formats.cams import CamFile, read_cam, write_cam
from stcl_cli.formats.masks import read_mask
from stcl_cli.stages import cam, evaluate, refine

NAMES = ("a", "sub dir/bär 01", "sub dir/c.v1")


@pytest.fixture(scope="module")
def cams(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cams") / "cams"
    labels = folder.parent / "labels.csv"
    labels.write_text("image,labels\na,dog\nsub dir/bär 01,cat;dog\n")
    result = cam.run(
        CamConfig(
            images=str(trained.photos), model=str(trained.run), labels=str(labels), output=str(folder), device="cpu"
        )
    )
    assert result.skipped == 1  # c.v1 has no label
    return folder


def refined(trained, cams, folder, **settings):
    settings = {"method": "none", "background": (0.4,), "device": "cpu", "workers": 1} | settings
    return refine.run(RefineConfig(cams=str(cams), images=str(trained.photos), output=str(folder), **settings))


def test_cams_of_the_given_labels_only(cams):
    one, two = (read_cam(cams / f"{name}.safetensors") for name in NAMES[:2])
    assert (one.labels, two.labels) == ((1,), (0, 1))
    assert (one.source, one.size, one.cam_KHW.shape) == ("given", (40, 56), (1, 10, 14))
    assert not (cams / f"{NAMES[2]}.safetensors").exists()


def test_cams_of_predicted_labels_say_so(trained, tmp_path):
    config = CamConfig(images=str(trained.photos), model=str(trained.run), output=str(tmp_path / "c"), device="cpu")
    cam.run(config)
    for name in NAMES:
        file = read_cam(tmp_path / "c" / f"{name}.safetensors")
        assert file.source == "predicted"
        assert all(score >= 0.005 for score in file.scores)


@pytest.mark.parametrize("method", ["none", "par", "crf"])
def test_masks_hold_the_labels_and_follow_the_cam(trained, tmp_path, method):
    """A photo that is red where the CAM is high: whatever the method, that part becomes the class."""
    pixels = np.zeros((40, 56, 3), np.uint8)
    pixels[:, 28:, 0] = 220
    (tmp_path / "photos").mkdir()
    Image.fromarray(pixels).save(tmp_path / "photos" / "x.png")
    map_HW = np.where(np.arange(56) >= 28, 0.9, 0.1).astype(np.float32)[None].repeat(40, 0)
    write_cam(tmp_path / "cams" / "x.safetensors", CamFile(("cat", "dog"), (1,), map_HW[None], (40, 56)))
    (tmp_path / "cams" / "classes.txt").write_text("background\ncat\ndog\n")
    config = RefineConfig(
        cams=str(tmp_path / "cams"), images=str(tmp_path / "photos"), output=str(tmp_path / "masks"), method=method,
        background=(0.4,), device="cpu", workers=1,
    )  # fmt: skip
    assert refine.run(config).skipped == 0
    mask = read_mask(tmp_path / "masks" / "x.png")
    assert set(np.unique(mask)) == {0, 2}
    assert (mask[:, :24] == 0).all()
    assert (mask[:, 32:] == 2).all()


def test_between_two_background_scores_is_ignored(trained, cams, tmp_path):
    for name, background in {"low": (0.3,), "high": (0.6,), "both": (0.3, 0.6)}.items():
        refined(trained, cams, tmp_path / name, background=background)
    for name in NAMES[:2]:
        low, high, both = (read_mask(tmp_path / way / f"{name}.png") for way in ("low", "high", "both"))
        assert (both[low == 0] == 0).all()
        assert (both[high > 0] == high[high > 0]).all()
        assert (both[(low > 0) & (high == 0)] == 255).all()


def test_masks_do_not_depend_on_the_number_of_processes(trained, cams, tmp_path):
    for workers in (1, 2):
        refined(trained, cams, tmp_path / str(workers), workers=workers, method="crf")
    for name in NAMES[:2]:
        one, two = ((tmp_path / str(workers) / f"{name}.png").read_bytes() for workers in (1, 2))
        assert one == two


def test_a_damaged_cam_is_skipped(trained, cams, tmp_path):
    damaged = tmp_path / "cams"
    (damaged / "sub dir").mkdir(parents=True)
    for name in ("classes.txt", "a.safetensors"):
        (damaged / name).write_bytes((cams / name).read_bytes())
    (damaged / "sub dir" / "bär 01.safetensors").write_bytes(b"half a file")
    result = refined(trained, damaged, tmp_path / "masks")
    assert result.skipped == 1
    failed = [json.loads(line) for line in (tmp_path / "masks" / "failed.jsonl").read_text().splitlines()]
    assert [record["image"] for record in failed] == ["sub dir/bär 01"]


def test_eval_finds_the_best_background_of_cams(cams, trained):
    summary = evaluate.run(EvalConfig(predictions=str(cams), truth=str(trained.root / "truth"))).summary
    assert summary["images"] == 2
    assert 0 < summary["best_background"] < 1
