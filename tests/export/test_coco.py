import json

import numpy as np
import pytest
from helpers import quick
from hypothesis import given
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from stcl_cli.errors import StclError
from stcl_cli.export.coco import CocoWriter, annotations, run_lengths
from stcl_cli.export.writer import Item


@quick
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_run_lengths_are_those_of_pycocotools(region_HW):
    height, width = region_HW.shape
    ours = coco_mask.frPyObjects({"size": [height, width], "counts": run_lengths(region_HW)}, height, width)
    assert ours == coco_mask.encode(np.asfortranarray(region_HW, np.uint8))
    assert np.array_equal(coco_mask.decode(ours), region_HW)


def test_box_and_area_are_those_of_pycocotools():
    mask_HW = np.zeros((20, 30), np.uint8)
    mask_HW[3:9, 5:6], mask_HW[12:, 20:], mask_HW[0] = 2, 7, 255
    found = list(annotations(mask_HW))
    assert [annotation["category_id"] for annotation in found] == [2, 7]
    for annotation in found:
        rle = coco_mask.frPyObjects(annotation["segmentation"], 20, 30)
        assert annotation["area"] == coco_mask.area(rle)
        assert annotation["bbox"] == coco_mask.toBbox(rle).tolist()
        assert annotation["iscrowd"] == 0


def test_pycocotools_reads_the_same_pixels(masks, same):
    coco = COCO(masks.export("coco") / "annotations" / "instances_train.json")
    assert [(c["id"], c["name"]) for c in coco.loadCats(coco.getCatIds())] == [
        (1, "cat"),
        (2, "Bär & Söhne"),
        (3, "'x' #1"),
    ]
    got = {}
    for image in coco.dataset["images"]:
        assert (masks.photos / image["file_name"]).is_file()
        mask_HW = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            mask_HW[coco.annToMask(annotation) == 1] = annotation["category_id"]
        got[image["file_name"].rsplit(".", 1)[0]] = mask_HW
    same(got, masks.without_ignored())
    ids = [annotation["id"] for annotation in coco.dataset["annotations"]]
    assert ids == list(range(1, len(ids) + 1))


def test_supervision_reads_the_same_pixels(masks, same):
    supervision = pytest.importorskip("supervision")
    file = masks.export("coco") / "annotations" / "instances_train.json"
    data = supervision.DetectionDataset.from_coco(str(masks.photos), str(file), force_masks=True)
    got = {}
    for path, photo, found in data:
        mask_HW = np.zeros(photo.shape[:2], np.uint8)
        for region_HW, index in zip(np.asarray(found.mask) if len(found) else (), found.class_id, strict=False):
            mask_HW[region_HW] = index + 1
        got[path.split("/photos/")[1].rsplit(".", 1)[0]] = mask_HW
    same(got, masks.without_ignored())


def test_without_photos_their_names_are_a_guess(masks):
    file = masks.export("coco", images=None) / "annotations" / "instances_train.json"
    names = [image["file_name"] for image in json.loads(file.read_text())["images"]]
    assert "sub dir/deep/x.v1.jpg" in names


def test_nothing_is_left_of_an_export_that_fails(tmp_path):
    def fail() -> None:
        with CocoWriter(tmp_path, ("cat",)) as writer:
            writer.write(Item("a", np.ones((2, 2), np.uint8)))
            raise StclError("no")

    with pytest.raises(StclError, match="no"):
        fail()
    assert list((tmp_path / "annotations").iterdir()) == []
