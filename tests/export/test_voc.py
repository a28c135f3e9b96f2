import numpy as np
import pytest
from torchvision.datasets import VOCSegmentation

from stcl_cli.errors import StclError
from stcl_cli.export.voc import labelmap


def test_torchvision_reads_the_same_pixels(masks, same, tmp_path):
    masks.export("voc", tmp_path / "VOCdevkit" / "VOC2012")
    data = VOCSegmentation(tmp_path, year="2012", image_set="train")
    got = {}
    for path, (photo, mask) in zip(data.masks, data, strict=True):
        assert photo.size == mask.size  # upright, too
        got[path.split("/SegmentationClass/")[1].removesuffix(".png")] = np.asarray(mask)
    same(got, masks.by_name)


def test_datumaro_reads_the_same_pixels(masks, same):
    datumaro = pytest.importorskip("datumaro")
    data = datumaro.Dataset.import_from(str(masks.export("voc")), "voc_segmentation")
    labels = [label.name for label in data.categories()[datumaro.AnnotationType.label]]
    assert labels == ["background", "cat", "Bär & Söhne", "'x' #1", "ignored"]
    got = {}
    for item in data:
        got[item.id] = np.zeros(masks.by_name[item.id].shape, np.uint8)
        for region in item.annotations:
            got[item.id][region.image] = 255 if region.label == 4 else region.label
    same(got, masks.by_name)


def test_labelmap():
    assert labelmap(["cat"]) == "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\n"
    assert labelmap(["cat"], ignored=True).splitlines()[-1] == "ignored:224,224,192::"


@pytest.mark.parametrize("name", ["a:b", "#a", "ignored"])
def test_a_class_name_that_labelmap_cannot_hold(name):
    with pytest.raises(StclError, match=f"class '{name}': .* --classes FILE"):
        labelmap(["cat", name], ignored=True)
