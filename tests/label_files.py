"""The same labels as every annotation tool would write them: {photo: class names} -> a path for --labels."""

import csv
import json
import urllib.parse
import xml.etree.ElementTree as ET

import numpy as np
import yaml
from PIL import Image

CLASSES = ("Bär", "cat", "dining table", "hot_dog")  # sorted, so that formats with and without an order agree


def single():
    """40 photos, each in the folder of its one class; the same file names in every folder."""
    names = ("a b", "bär 01", "photo.v1", "UPPER", "x", "[1]", "1", "ü", "-n", "z,z")
    return {f"{label}/{name}": [label] for label in CLASSES for name in names}


def several():
    """40 photos with none to four classes."""
    return {
        f"sub {number % 3}/{number // 3} bär": [label for bit, label in enumerate(CLASSES) if number >> bit & 1]
        for number in range(40)
    }


def draw(folder, names):
    """Tiny photos: JPEG, every fifth a PNG."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        path = folder / f"{name}{'.png' if number % 5 == 4 else '.jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).save(path)


def photo_file(folder, name):
    return next(name + suffix for suffix in (".jpg", ".png") if (folder / (name + suffix)).exists())


def _table(path, rows, **options):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, **options).writerows(rows)
    return path


def csv_pairs(root, table):
    rows = [
        ("image", "labels"),
        *((photo_file(root / "images", name), ";".join(shows)) for name, shows in table.items()),
    ]
    return _table(root / "labels.csv", rows)


def csv_pairs_without_header(root, table):
    return _table(root / "labels.csv", [(name, "|".join(shows)) for name, shows in table.items()])


def csv_semicolons(root, table):
    rows = [("Filename", "Class"), *((name, ",".join(shows)) for name, shows in table.items())]
    return _table(root / "labels.csv", rows, delimiter=";")


def csv_columns(root, table):
    rows = [
        ("image", *CLASSES),
        *((name, *(int(label in shows) for label in CLASSES)) for name, shows in table.items()),
    ]
    return _table(root / "labels.csv", rows)


def tsv_pandas(root, table):
    """What DataFrame.to_csv(sep='\\t') writes, with its numbers in front, of booleans."""
    rows = [(n, name, *(label in shows for label in CLASSES)) for n, (name, shows) in enumerate(table.items())]
    return _table(root / "labels.tsv", [("", "image", *CLASSES), *rows], delimiter="\t")


def csv_boxes(root, table):
    """A line for each box, as for TensorFlow's object detection."""
    rows = [(name, 8, 6, label, 1, 1, 3, 3) for name, shows in table.items() for label in (shows or ["background"]) * 2]
    return _table(root / "_annotations.csv", [("filename", "width", "height", "class", *"abcd"), *rows])


def _json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def json_mapping(root, table):
    return _json(root / "labels.json", table)


def json_objects(root, table):
    return _json(root / "labels.json", [{"file_name": name, "labels": shows} for name, shows in table.items()])


def json_lines_of_flags(root, table):
    """What DataFrame.to_json(orient='records', lines=True) writes of one-hot columns."""
    items = [{"image": name, **{label: int(label in shows) for label in CLASSES}} for name, shows in table.items()]
    path = root / "labels.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    return path


def folders(root, table):
    assert all(name.split("/")[0] == label for name, (label,) in table.items())
    return root / "images"


def class_lists(root, table):
    (root / "lists").mkdir()
    for label in CLASSES:
        lines = [photo_file(root / "images", name) for name, shows in table.items() if label in shows]
        (root / "lists" / f"{label}.txt").write_text("\n".join(lines), encoding="utf-8")
    return root / "lists"


def voc_image_sets(root, table):
    """ImageSets/Main: train.txt, and CLASS_train.txt with 1 or -1 behind every photo."""
    (root / "Main").mkdir()
    (root / "Main" / "train.txt").write_text("".join(f"{name}\n" for name in table), encoding="utf-8")
    for label in CLASSES:
        lines = [f"{name} {' 1' if label in shows else '-1'}\n" for name, shows in table.items()]
        (root / "Main" / f"{label}_train.txt").write_text("".join(lines), encoding="utf-8")
    return root / "Main"


def imagenet_lists(root, table):
    """CVAT's and Datumaro's ImageNet export without photos: names with blanks are quoted up to the suffix."""
    (root / "lists").mkdir()
    (root / "lists" / "synsets.txt").write_text("".join(f"{label}\n" for label in CLASSES), encoding="utf-8")
    lines = [[], []]
    for number, (name, shows) in enumerate(table.items()):
        quoted = f'"{name}"' if " " in name else name
        suffix = photo_file(root / "images", name)[len(name) :]
        lines[number % 2].append(" ".join([quoted + suffix, *(str(CLASSES.index(label)) for label in shows)]))
    (root / "lists" / "train.txt").write_text("\n".join(lines[0]) + "\n", encoding="utf-8")
    (root / "lists" / "val.txt").write_text("\n".join(lines[1]) + "\n", encoding="utf-8")
    return root / "lists"


def voc(root, table):
    for name, shows in table.items():
        annotation = ET.Element("annotation")
        ET.SubElement(annotation, "filename").text = f"{name}.jpg"
        for label in shows:
            thing = ET.SubElement(annotation, "object")
            ET.SubElement(thing, "name").text = label
            ET.SubElement(thing, "difficult").text = "1"
            ET.SubElement(ET.SubElement(thing, "part"), "name").text = "head"
        path = root / "Annotations" / f"{name}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        ET.ElementTree(annotation).write(path)
    return root / "Annotations"


def coco(root, table):
    (root / "annotations").mkdir()
    ids = {label: 10 * number + 1 for number, label in enumerate(CLASSES)}
    boxes = [(image, label) for image, shows in enumerate(table.values()) for label in shows + shows[:1]]
    value = {
        "info": {},
        "images": [
            {"id": image, "file_name": photo_file(root / "images", name), "width": 8, "height": 6}
            for image, name in enumerate(table)
        ],
        "annotations": [
            {"id": n, "image_id": image, "category_id": ids[label], "bbox": [0, 0, 1, 1], "segmentation": [[0.5] * 6]}
            for n, (image, label) in enumerate(boxes)
        ],
        "categories": [{"id": ids[label], "name": label, "supercategory": "thing"} for label in reversed(CLASSES)],
    }
    return _json(root / "annotations" / "instances_train.json", value)


def ultralytics(root, table):
    for name, shows in table.items():
        path = root / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        if shows:
            path.write_text("".join(f"{CLASSES.index(label)} 0.5 0.5 0.25 0.25\n" for label in shows))
    (root / "data.yaml").write_text(
        yaml.safe_dump({"path": "/theirs", "train": "images", "val": "images", "test": None, "names": [*CLASSES]}),
    )
    return root / "data.yaml"


def yolo_with_classes_txt(root, table):
    """Label Studio's YOLO export."""
    for name, shows in table.items():
        path = root / "yolo" / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{CLASSES.index(label)} 0.1 0.2 0.9 0.2 0.5 0.8\n" for label in shows))
    (root / "yolo" / "classes.txt").write_text("".join(f"{label}\n" for label in CLASSES), encoding="utf-8")
    return root / "yolo"


def yolo_darknet(root, table):
    """CVAT's and Datumaro's YOLO 1.1."""
    for name, shows in table.items():
        path = root / "darknet" / "obj_train_data" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{CLASSES.index(label)} 0.1 0.2 0.9 0.2\n" for label in shows))
    (root / "darknet" / "obj.names").write_text("".join(f"{label}\n" for label in CLASSES), encoding="utf-8")
    (root / "darknet" / "obj.data").write_text(f"classes = {len(CLASSES)}\nnames = data/obj.names\n")
    (root / "darknet" / "train.txt").write_text("".join(f"data/obj_train_data/{name}.jpg\n" for name in table))
    return root / "darknet"


def masks(root, table):
    for name, shows in table.items():
        mask = np.zeros((6, 8), np.uint8)
        mask[0] = 255
        for row, label in enumerate(shows, 1):
            mask[row] = CLASSES.index(label) + 1
        image = Image.fromarray(mask)
        image.putpalette(list(range(256)) * 3)
        path = root / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    (root / "masks" / "classes.txt").write_text("\n".join(["background", *CLASSES]), encoding="utf-8")
    return root / "masks"


def npy(root, table):
    """cls_labels.npy of PSA, IRN, SEAM, AFA, ToCo, ..."""
    vectors = {name: np.array([label in shows for label in CLASSES], np.float32) for name, shows in table.items()}
    np.save(root / "cls_labels.npy", vectors)
    (root / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    return root / "cls_labels.npy"


def cvat(root, table):
    kinds = ("tag", "box", "polygon", "mask")
    annotations = ET.Element("annotations")
    labels = ET.SubElement(ET.SubElement(ET.SubElement(annotations, "meta"), "task"), "labels")
    for label in CLASSES:
        ET.SubElement(ET.SubElement(labels, "label"), "name").text = label
    for number, (name, shows) in enumerate(table.items()):
        image = ET.SubElement(annotations, "image", id=str(number), name=photo_file(root / "images", name))
        for kind, label in zip(kinds, shows, strict=False):
            ET.SubElement(ET.SubElement(image, kind, label=label), "attribute", name="x").text = "cow"
    ET.ElementTree(annotations).write(root / "annotations.xml", encoding="utf-8", xml_declaration=True)
    return root / "annotations.xml"


def labelme(root, table):
    for name, shows in table.items():
        path = root / "labelme" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        shapes = [{"label": label, "points": [[0, 0], [1, 1]], "shape_type": "rectangle"} for label in shows[:1]]
        flags = {label: label in shows[1:] for label in CLASSES}
        _json(path, {"version": "5.5.0", "flags": flags, "shapes": shapes, "imagePath": "x", "imageData": "eA=="})
    return root / "labelme"


def label_studio(root, table):
    tasks = []
    for number, (name, shows) in enumerate(table.items()):
        url = "/data/local-files/?d=" + urllib.parse.quote(photo_file(root / "images", name))
        result = [{"type": "choices", "from_name": "c", "value": {"choices": shows[:2]}}] + [
            {"type": "rectanglelabels", "value": {"x": 1, "y": 2, "rectanglelabels": [label]}} for label in shows[2:]
        ]
        result.append({"type": "textarea", "value": {"text": ["a note"]}})
        cancelled = {"was_cancelled": True, "result": [{"value": {"choices": ["cow"]}}]}
        tasks.append({"id": number, "data": {"img": url}, "annotations": [{"result": result}, cancelled]})
    return _json(root / "project-1-at-2025-01-01.json", tasks)


def label_studio_min(root, table):
    """JSON-MIN: several choices are an object, one is text, none is no key."""
    items = [
        {"image": photo_file(root / "images", name), "id": n, **({"choice": _choices(shows)} if shows else {})}
        for n, (name, shows) in enumerate(table.items())
    ]
    return _json(root / "project-1-min.json", items)


def label_studio_csv(root, table):
    rows = []
    for number, (name, shows) in enumerate(table.items()):
        cell = _choices(shows)
        cell = cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)
        rows.append((number, 1, cell, "2025-01-01", number, photo_file(root / "images", name), 3.5))
    header = ("annotation_id", "annotator", "choice", "created_at", "id", "image", "lead_time")
    return _table(root / "project-1.csv", [header, *rows], quoting=csv.QUOTE_NONNUMERIC)


def _choices(shows):
    return shows[0] if len(shows) == 1 else {"choices": shows} if shows else ""


# Name -> (what writes it, what it is recognised as, the tables it can hold).
WRITERS = {
    "CSV, pairs": (csv_pairs, "csv", (single, several)),
    "CSV, pairs without header": (csv_pairs_without_header, "csv", (single, several)),
    "CSV, semicolons": (csv_semicolons, "csv", (single, several)),
    "CSV, one-hot columns": (csv_columns, "csv", (single, several)),
    "TSV, one-hot columns": (tsv_pandas, "csv", (single, several)),
    "CSV, a box a line": (csv_boxes, "csv", (single, several)),
    "JSON, mapping": (json_mapping, "json", (single, several)),
    "JSON, objects": (json_objects, "json", (single, several)),
    "JSON lines, one-hot": (json_lines_of_flags, "json", (single, several)),
    "a folder a class": (folders, "folders", (single,)),
    "a text file a class": (class_lists, "lists", (single,)),
    "VOC ImageSets/Main": (voc_image_sets, "lists", (single, several)),
    "a text file a subset": (imagenet_lists, "lists", (single, several)),
    "VOC Annotations": (voc, "voc", (single, several)),
    "COCO": (coco, "coco", (single, several)),
    "Ultralytics data.yaml": (ultralytics, "yolo", (single, several)),
    "YOLO with classes.txt": (yolo_with_classes_txt, "yolo", (single, several)),
    "YOLO 1.1": (yolo_darknet, "yolo", (single, several)),
    "masks": (masks, "masks", (single, several)),
    "npy": (npy, "npy", (single, several)),
    "CVAT for images": (cvat, "cvat", (single, several)),
    "LabelMe": (labelme, "labelme", (single, several)),
    "Label Studio JSON": (label_studio, "label-studio", (single, several)),
    "Label Studio JSON-MIN": (label_studio_min, "json", (single, several)),
    "Label Studio CSV": (label_studio_csv, "csv", (single, several)),
}
