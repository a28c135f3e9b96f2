from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from stcl_cli.export import yolo
from stcl_cli.formats.masks import read_mask


def own_name(path: str | Path, root: Path) -> str:
    return str(Path(path).relative_to(root)).rsplit(".", 1)[0].replace("images_/", "images/")


def test_polygons_give_the_same_pixels_under_either_rounding(masks, same):
    root = masks.export("yolo") / "labels" / "train"
    for rounding in (np.floor, np.round):
        got = {}
        for path in root.rglob("*.txt"):
            name = own_name(path, root)
            height, width = masks.by_name[name].shape
            got[name] = np.zeros((height, width), np.uint8)
            for line in path.read_text().splitlines():
                index, *shares = line.split()
                corners = np.array(shares, np.float32).reshape(-1, 2) * (width, height)
                cv2.fillPoly(got[name], [rounding(corners).astype(np.int32)], int(index) + 1)
        same(got, masks.without_ignored())


def test_supervision_reads_the_same_pixels(masks, same):
    supervision = pytest.importorskip("supervision")
    out = masks.export("yolo")
    for folder in ("sub dir", "."):  # it looks into one folder, not below
        photos, labels = out / "images" / "train" / folder, out / "labels" / "train" / folder
        data = supervision.DetectionDataset.from_yolo(
            str(photos), str(labels), str(out / "data.yaml"), force_masks=True
        )
        got = {}
        for path, photo, found in data:
            mask_HW = np.zeros(photo.shape[:2], np.uint8)
            for region_HW, index in zip(np.asarray(found.mask) if len(found) else (), found.class_id, strict=False):
                mask_HW[region_HW] = index + 1
            got[own_name(path, out / "images" / "train")] = mask_HW
        assert data.classes == ["cat", "Bär & Söhne", "'x' #1"]
        same(got, {name: masks.without_ignored()[name] for name in got})
        assert got


def test_ultralytics_reads_the_same_pixels(masks, same):
    pytest.importorskip("ultralytics")
    from ultralytics.cfg import get_cfg
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset, polygon2mask

    out = masks.export("yolo").resolve()
    data = check_det_dataset(str(out / "data.yaml"))
    assert data["names"] == {0: "cat", 1: "Bär & Söhne", 2: "'x' #1"}
    got = {}
    for label in YOLODataset(img_path=data["train"], data=data, task="segment", hyp=get_cfg(), augment=False).labels:
        mask_HW = np.zeros(label["shape"], np.uint8)
        for index, corners in zip(label["cls"], label["segments"], strict=True):
            region_HW = polygon2mask(mask_HW.shape, [(corners * mask_HW.shape[::-1]).ravel()])
            mask_HW[region_HW == 1] = int(index[0]) + 1
        got[own_name(label["im_file"], out / "images" / "train")] = mask_HW
    same(got, masks.without_ignored())


def test_semantic_masks_are_greyscale_indices_beside_their_photos(masks, same):
    out = masks.export("ultralytics-semantic")
    data = yaml.safe_load((out / "data.yaml").read_text(encoding="utf-8"))
    assert data["names"] == {0: "background", 1: "cat", 2: "Bär & Söhne", 3: "'x' #1"}
    got = {}
    for path in (out / data["train"]).rglob("*.*"):
        mask_path = Path(str(path).replace("/images/", f"/{data['masks_dir']}/")).with_suffix(".png")
        with Image.open(mask_path) as image:
            assert image.mode == "L"
        got[own_name(path, out / "images" / "train")] = read_mask(mask_path)
        assert np.array_equal(cv2.imread(str(mask_path), cv2.IMREAD_UNCHANGED), read_mask(mask_path))
    same(got, masks.by_name)


def test_ultralytics_reads_the_same_semantic_masks(masks, same):
    pytest.importorskip("ultralytics")
    from ultralytics.cfg import get_cfg
    from ultralytics.data.dataset import SemanticDataset
    from ultralytics.data.utils import check_det_dataset
    from ultralytics.data.utils import read_mask as ultralytics_mask

    out = masks.export("ultralytics-semantic").resolve()
    data = check_det_dataset(str(out / "data.yaml"))
    dataset = SemanticDataset(img_path=data["train"], data=data, task="semantic", hyp=get_cfg(), augment=False)
    got = {
        own_name(label["im_file"], out / "images" / "train"): ultralytics_mask(label["mask_file"], label["mode"])
        for label in dataset.labels
    }
    same(got, masks.by_name)


def test_a_folder_called_images_is_renamed():
    assert yolo.ultralytics_name("images/a/images/images") == "images_/a/images_/images"
    assert yolo.ultralytics_name("my images/a") == "my images/a"
    assert yolo.ultralytics_name("images_/a") == "images__/a"  # or it would be that of images/a


def test_without_photos_only_labels(masks):
    out = masks.export("yolo", images=None)
    assert not (out / "images").exists()
    assert (out / "labels" / "train" / "void.txt").read_text() == ""
