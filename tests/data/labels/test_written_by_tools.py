"""The other way round: datasets that the tools themselves write. Each test runs where its tool is installed."""

import json

import label_files
import numpy as np
import pytest

from stcl_cli.data.labels import match_labels, read_labels
from stcl_cli.data.photos import list_photos

TABLE = label_files.several()
FLAT = {name.replace("/", "_"): shows for name, shows in TABLE.items()}  # for tools without sub-folders
SOMETHING = {name: shows for name, shows in TABLE.items() if shows}  # VOC's writers leave out photos with no object


def read(images, *paths):
    """{photo: class names}, and the format, of what is in `paths` together."""
    photos = list_photos(images).photos
    found, formats = {}, set()
    for path in paths:
        labels = read_labels(path)
        assert labels.classes == label_files.CLASSES
        formats.add(labels.format)
        found |= {p.name: [labels.classes[i] for i in shows] for p, shows in match_labels(photos, labels).labelled}
    return found, *formats


# ---- Datumaro, which CVAT exports with ------------------------------------------------------------------------------


@pytest.fixture
def datumaro(tmp_path):
    dm = pytest.importorskip("datumaro")
    from datumaro.components.annotation import Bbox, Label
    from datumaro.components.dataset_base import DatasetItem
    from datumaro.components.media import Image

    label_files.draw(tmp_path / "images", TABLE)

    def export(kind, tags=False):
        items = []
        for number, (name, shows) in enumerate(TABLE.items()):
            labels = [label_files.CLASSES.index(label) for label in shows]
            path = tmp_path / "images" / label_files.photo_file(tmp_path / "images", name)
            items.append(
                DatasetItem(
                    id=name,
                    subset="train" if number % 2 else "val",
                    media=Image.from_file(path=str(path)),
                    annotations=[Label(n) if tags else Bbox(1, 1, 3, 3, label=n) for n in labels],
                )
            )
        dataset = dm.Dataset.from_iterable(items, categories=list(label_files.CLASSES))
        dataset.export(str(tmp_path / kind), kind, save_media=False)
        return tmp_path / kind

    return export


@pytest.mark.parametrize(
    ("kind", "paths", "tags", "read_as", "table"),
    [
        (
            "coco_instances",
            ["annotations/instances_train.json", "annotations/instances_val.json"],
            False,
            "coco",
            TABLE,
        ),
        ("cvat", ["train.xml", "val.xml"], False, "cvat", TABLE),
        ("cvat", ["train.xml", "val.xml"], True, "cvat", TABLE),
        ("yolo_ultralytics", ["data.yaml"], False, "yolo", TABLE),
        ("yolo", ["."], False, "yolo", TABLE),
        ("imagenet_txt", ["."], True, "lists", TABLE),
        ("voc_detection", ["Annotations"], False, "voc", SOMETHING),
        ("voc_classification", ["ImageSets/Main"], True, "lists", SOMETHING),
        ("label_me", ["Annotations"], False, "voc", TABLE),  # LabelMe 3.0, of the web
    ],
)
def test_datumaro(tmp_path, datumaro, kind, paths, tags, read_as, table):
    folder = datumaro(kind, tags)
    assert read(tmp_path / "images", *(folder / path for path in paths)) == (table, read_as)


# ---- supervision ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
def test_supervision(tmp_path, kind):
    sv = pytest.importorskip("supervision")
    label_files.draw(tmp_path / "images", FLAT)
    boxes = {}
    for name, shows in FLAT.items():
        found = sv.Detections.empty()
        if shows:
            labels = np.array([label_files.CLASSES.index(label) for label in shows])
            found = sv.Detections(xyxy=np.full((len(shows), 4), (1.0, 1.0, 3.0, 3.0)), class_id=labels)
        boxes[str(tmp_path / "images" / label_files.photo_file(tmp_path / "images", name))] = found
    dataset = sv.DetectionDataset(classes=list(label_files.CLASSES), images=list(boxes), annotations=boxes)
    path = tmp_path / "written"
    if kind == "coco":
        dataset.as_coco(annotations_path=str(path))
    elif kind == "voc":
        dataset.as_pascal_voc(annotations_directory_path=str(path))
    else:
        dataset.as_yolo(annotations_directory_path=str(path / "labels"), data_yaml_path=str(path / "data.yaml"))
    assert read(tmp_path / "images", path) == (FLAT, kind)


# ---- Label Studio's converter ---------------------------------------------------------------------------------------

CONTROLS = {
    "choices": '<Choices name="choice" toName="image" choice="multiple">{}</Choices>',
    "rectanglelabels": '<RectangleLabels name="label" toName="image">{}</RectangleLabels>',
}


@pytest.mark.parametrize(
    ("control", "kind", "path", "read_as", "table"),
    [
        ("choices", "JSON", "result.json", "label-studio", FLAT),
        ("choices", "JSON_MIN", "result.json", "json", FLAT),
        ("choices", "CSV", "result.csv", "csv", FLAT),
        ("choices", "TSV", "result.csv", "csv", FLAT),
        ("rectanglelabels", "JSON", "result.json", "label-studio", FLAT),
        ("rectanglelabels", "JSON_MIN", "result.json", "json", FLAT),
        ("rectanglelabels", "CSV", "result.csv", "csv", FLAT),
        ("rectanglelabels", "COCO", "result.json", "coco", FLAT),
        ("rectanglelabels", "VOC", "Annotations", "voc", {name: shows for name, shows in FLAT.items() if shows}),
        ("rectanglelabels", "YOLO", ".", "yolo", FLAT),
    ],
)
def test_label_studio(tmp_path, control, kind, path, read_as, table):
    converter = pytest.importorskip("label_studio_sdk.converter")
    label_files.draw(tmp_path / "images", FLAT)
    tasks = []
    for number, (name, shows) in enumerate(FLAT.items()):
        common = {"type": control, "from_name": "choice" if control == "choices" else "label", "to_name": "image"}
        box = {"x": 10, "y": 10, "width": 30, "height": 30, "rotation": 0}
        values = [box | {control: [label]} for label in shows]
        if control == "choices":
            values = [{control: shows}] if shows else []
        size = {"original_width": 8, "original_height": 6, "image_rotation": 0}
        result = [common | size | {"id": str(n), "value": value} for n, value in enumerate(values)]
        annotation = {"id": number, "completed_by": 1, "was_cancelled": False, "result": result}
        times = {"created_at": "2025", "updated_at": "2025", "lead_time": 1.0}
        file = label_files.photo_file(tmp_path / "images", name)
        tasks.append(
            {"id": number, "data": {"image": f"/data/upload/1/{number:08x}-{file}"}}
            | {"annotations": [annotation | times]}
        )
    (tmp_path / "tasks.json").write_text(json.dumps(tasks))
    tag = "Choice" if control == "choices" else "Label"
    values = "".join(f'<{tag} value="{label}"/>' for label in label_files.CLASSES)
    view = f'<View><Image name="image" value="$image"/>{CONTROLS[control].format(values)}</View>'
    made = converter.Converter(view, str(tmp_path), download_resources=False)
    made.convert(str(tmp_path / "tasks.json"), str(tmp_path / "out"), kind, is_dir=False)
    assert read(tmp_path / "images", tmp_path / "out" / path) == (table, read_as)
