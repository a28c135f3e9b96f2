import io
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image


def test_the_layout_of_segmentation_mask_1_1(masks, same):
    with ZipFile(masks.export("cvat") / "cvat.zip") as archive:
        names = archive.read("ImageSets/Segmentation/default.txt").decode().splitlines()
        assert names == sorted(masks.by_name)
        labels = [line.split(":") for line in archive.read("labelmap.txt").decode().splitlines()[1:]]
        value = {tuple(map(int, colour.split(","))): number for number, (_, colour, *_) in enumerate(labels)}
        assert [name for name, *_ in labels] == ["background", "cat", "Bär & Söhne", "'x' #1"]
        for folder in ("SegmentationClass", "SegmentationObject"):
            got = {}
            for name in names:
                with Image.open(io.BytesIO(archive.read(f"{folder}/{name}.png"))) as image:
                    colours = np.asarray(image.convert("RGB"))  # CVAT goes by colours
                got[name] = np.array([[value[tuple(colour)] for colour in row] for row in colours.tolist()])
            same(got, masks.without_ignored())


def test_datumaro_reads_the_same_pixels(masks, same, tmp_path):
    datumaro = pytest.importorskip("datumaro")
    with ZipFile(masks.export("cvat") / "cvat.zip") as archive:
        archive.extractall(tmp_path / "task")
    got = {}
    for item in datumaro.Dataset.import_from(str(tmp_path / "task"), "voc_segmentation"):
        got[item.id] = np.zeros(masks.by_name[item.id].shape, np.uint8)
        for region in item.annotations:
            got[item.id][region.image] = region.label
    same(got, masks.without_ignored())


def test_the_same_masks_give_the_same_file(masks, tmp_path):
    files = [masks.export("cvat", tmp_path / name) / "cvat.zip" for name in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()
