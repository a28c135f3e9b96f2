import json

import pytest

from stcl_cli.data.labels import Labels, read_labels
from stcl_cli.errors import StclError

IMAGES = [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "sub/b.jpg"}]
CATEGORIES = [{"id": 44, "name": "dog"}, {"id": 3, "name": "emu"}, {"id": 12, "name": " cat"}]


@pytest.fixture
def read(tmp_path):
    def read(annotations, images=IMAGES, categories=CATEGORIES, classes=None, **more):
        value = {"images": images, "annotations": annotations, "categories": categories, **more}
        (tmp_path / "coco.json").write_text(json.dumps({k: v for k, v in value.items() if v is not None}))
        return read_labels(tmp_path / "coco.json", classes, "coco")

    return read


def box(image, category):
    return {"id": 1, "image_id": image, "category_id": category, "bbox": [0, 0, 1, 1], "iscrowd": 1}


def test_classes_in_the_order_of_their_ids(read):
    labels = read([box(7, 44), box(7, 12), box(7, 44)])
    assert labels == Labels(("emu", "cat", "dog"), {"a.jpg": (1, 2), "sub/b.jpg": ()})
    assert read([box(7, 44)], classes=["dog", "cat"]).by_name["a.jpg"] == (0,)


def test_roboflow_heading(read):
    categories = [
        {"id": 0, "name": "pets", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "pets"},
        {"id": 2, "name": "dog", "supercategory": "pets"},
    ]
    assert read([box(7, 2)], categories=categories).classes == ("cat", "dog")
    assert read([box(7, 2), box(9, 0)], categories=categories).classes == ("pets", "cat", "dog")
    person = [{"id": 1, "name": "person", "supercategory": "person"}, {"id": 2, "name": "cat", "supercategory": "none"}]
    assert read([], categories=person).classes == ("person", "cat")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"annotations": [box(8, 3)]}, "annotation 1: its image or its category is not in the file"),
        ({"annotations": [box(7, 3), box(7, 4)]}, "annotation 2: its image or its category"),
        ({"annotations": [box(7, [3])]}, "annotation 1: its image or its category"),
        ({"annotations": [box(float("nan"), 3)]}, "annotation 1: its image or its category"),
        (
            {"annotations": [{"image_id": 7, "caption": "a cat"}]},
            "annotation 1: has no image_id and category_id; give inst",
        ),
        ({"annotations": [None]}, "annotation 1: has no image_id"),
        ({"annotations": {}}, "holds no list of annotations"),
        ({"categories": None}, r"holds no list of categories, as COCO does; give instances_\*.json"),
        ({"images": [{"id": 7}]}, "images 1: has no id and file_name"),
        ({"images": [{"id": float("inf"), "file_name": "a"}]}, "images 1: has no id and file_name"),
        ({"images": [IMAGES[0], IMAGES[0]]}, "images 2: its id 7 is there twice"),
        ({"categories": [*CATEGORIES, {"id": 1, "name": "emu"}]}, "names class 'emu' twice"),
        ({"categories": [{"id": 1, "name": 3}]}, "categories 1: has no id and name"),
        ({"annotations": [box(7, 44)], "classes": ["dig"]}, "image 'a.jpg': unknown class 'dog'; correct it to 'dig'"),
    ],
)
def test_errors(read, change, reason):
    with pytest.raises(StclError, match=rf"coco.json:? {reason}"):
        read(**{"annotations": []} | change)


def test_named_coco_but_another_kind(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(StclError, match="holds no list of images, as COCO does"):
        read_labels(tmp_path / "x.json", None, "coco")
