import base64
import io

import numpy as np
import pytest
from PIL import Image
from report_folders import CLASSES, NAMES, mask_of, truth_of

from stcl_cli.config import EvalConfig
from stcl_cli.data.photos import Photo
from stcl_cli.errors import PhotoError
from stcl_cli.evaluation.metrics import confusion_matrix, iou_per_class, mean_iou
from stcl_cli.report.columns import CamColumn, MaskColumn
from stcl_cli.stages import evaluate


def column_of(world, kind, place, suffix):
    return kind(place, CLASSES, {name: world / "out" / place / f"{name}{suffix}" for name in NAMES})


@pytest.fixture
def masks(world):
    return column_of(world, MaskColumn, "masks", ".png")


@pytest.fixture
def cams(world):
    return column_of(world, CamColumn, "cams", ".safetensors")


def pixels_of(uri):
    head, _, data = uri.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == f"data:image/{image.format.lower()};base64"
    return np.asarray(image.convert("RGB"))


def test_masks_are_counted_and_compared(masks):
    for index, name in enumerate(NAMES):
        masks.add(name, truth_of(index))
    matrices = [confusion_matrix(truth_of(i), mask_of(i), 3) for i in range(len(NAMES))]
    assert masks.ious() == {name: mean_iou(matrix) for name, matrix in zip(NAMES, matrices, strict=True)}
    assert np.array_equal(masks.confusion(), sum(matrices))
    assert masks.miou() == mean_iou(sum(matrices))
    assert np.array_equal(masks.iou_per_class(), iou_per_class(sum(matrices)))
    assert masks.shows.tolist() == [2, 2]
    assert masks.pixels.tolist() == [np.mean([mask_of(i) == value for i in range(4)]) for value in (1, 2)]
    assert masks.doubt == {name: np.mean(mask_of(i) == 255) for i, name in enumerate(NAMES)}


def test_cams_are_counted_and_compared_as_eval_does(cams, world):
    for index, name in enumerate(NAMES):
        cams.add(name, truth_of(index))
    config = EvalConfig(predictions=str(world / "out" / "cams"), truth=str(world / "truth"))
    summary = evaluate.run(config).summary
    assert cams.sweep.best() == (summary["miou"], summary["best_background"])
    assert cams.shows.tolist() == [2, 2]
    assert cams.doubt == {name: (index + 1) / 8 for index, name in enumerate(NAMES)}
    assert set(cams.ious()) == set(NAMES)
    assert cams.predicted == 0


def test_without_truth_nothing_is_compared(masks, cams):
    for column in (masks, cams):
        for name in NAMES:
            column.add(name, None)
        assert column.seen == set(NAMES)
        assert column.ious() == {}
        assert column.confusion() is column.miou() is column.iou_per_class() is None


def test_pictures_of_a_mask(masks):
    masks.add("a", None)
    drawn = masks.draw(Photo("a", None), np.full((12, 16, 3), 100, np.uint8))
    assert [picture.caption for picture in drawn.pictures] == ["masks", "masks on the photo"]
    mask, over = (pixels_of(picture.uri) for picture in drawn.pictures)
    assert mask.shape == over.shape == (12, 16, 3)
    assert mask[6, 2].tolist() == [0, 0, 0]
    assert mask[6, 14].tolist() == [128, 0, 0]  # VOC's first colour
    assert mask[6, 15].tolist() == [255, 255, 255]  # 255
    assert np.ptp(over[6, 2].astype(int)) < 10
    assert over[6, 14, 0] > over[6, 14, 1] + 20
    assert drawn.shares == {value: np.mean(mask_of(0) == value) for value in (0, 1, 255)}
    assert drawn.fact == "masks: 6\u00a0% ignored"


def test_pictures_of_cams(cams):
    cams.add("a", truth_of(0))
    drawn = cams.draw(Photo("a", None), np.full((12, 16, 3), 100, np.uint8))
    assert [picture.caption for picture in drawn.pictures] == [f"cams: {CLASSES[0]} (88\u00a0%)"]
    assert drawn.fact == f"cams: IoU {cams.ious()['a']:.2f}, 12\u00a0% unsure, labels given: {CLASSES[0]}"
    warm = pixels_of(drawn.pictures[0].uri).astype(int)
    assert warm[6, 14, 0] > warm[6, 6, 0]  # red where the CAM is high


def test_damaged_files(masks, cams, tmp_path):
    (tmp_path / "x").write_bytes(b"half")
    for column in (masks, cams):
        column.files = {"a": tmp_path / "x"}
        with pytest.raises(PhotoError):
            column.add("a", None)
        assert column.seen == set()
    with pytest.raises(PhotoError, match="the true mask is 5 x 4"):
        masks.__class__("masks", CLASSES, {"a": _mask(tmp_path)}).add("a", np.zeros((4, 5), np.uint8))


def _mask(folder):
    Image.new("L", (3, 3)).save(folder / "m.png")
    return folder / "m.png"


def test_masks_that_know_fewer_classes(world):
    files = {name: world / "out" / "masks" / f"{name}.png" for name in NAMES}
    column = MaskColumn("masks", CLASSES, files, own=1)
    for index, name in enumerate(NAMES):
        column.add(name, truth_of(index))
    assert not column.confusion()[:, 2].any()
    assert column.confusion()[:, -1].any()
