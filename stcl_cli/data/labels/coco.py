"""COCO's instances_*.json: images, categories, and annotations that connect them."""

from __future__ import annotations

from typing import Any

from stcl_cli.data.labels.rows import Row, Table
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import clean_name
from stcl_cli.wording import shown

_CURE = "give instances_*.json or another export with boxes or outlines"


def read(value: Any, file: str) -> Table:
    """Classes in the order of the categories' ids; an image without annotations shows none of them.

    Raises:
        StclError: not COCO's layout, or an id that leads nowhere.
    """
    images = _by_id(value, "images", "file_name", file)
    categories = _by_id(value, "categories", "name", file)
    shows: dict[Any, set[Any]] = {image: set() for image in images}
    used: set[Any] = set()
    for number, annotation in enumerate(_items(value, "annotations", file), 1):
        origin = f"{file} annotation {number}"
        if not isinstance(annotation, dict) or not {"image_id", "category_id"} <= annotation.keys():
            raise StclError(f"{origin}: has no image_id and category_id; {_CURE}")
        image, category = annotation["image_id"], annotation["category_id"]
        try:
            known = image in shows and category in categories
        except TypeError:  # an id that is a list
            known = False
        if not known:
            raise StclError(f"{origin}: its image or its category is not in the file; export it anew")
        shows[image].add(category)
        used.add(category)
    headings = {item["id"] for item in value["categories"] if item["id"] not in used and _is_heading(item, value)}
    order = sorted(categories.keys() - headings, key=lambda identity: (isinstance(identity, str), identity))
    names = {identity: clean_name(categories[identity]) for identity in order}
    rows = [
        Row(f"{file} image '{shown(name)}'", name, [names[category] for category in shows[image]])
        for image, name in images.items()
    ]
    return Table(rows, list(names.values()))


def _items(value: Any, key: str, file: str) -> list[Any]:
    items = value.get(key) if isinstance(value, dict) else None
    if not isinstance(items, list):
        raise StclError(f"{file}: holds no list of {key}, as COCO does; {_CURE}")
    return items


def _by_id(value: Any, key: str, name: str, file: str) -> dict[Any, str]:
    table: dict[Any, str] = {}
    for number, item in enumerate(_items(value, key, file), 1):
        identity, text = (item.get("id"), item.get(name)) if isinstance(item, dict) else (None, None)
        if not isinstance(identity, int | str) or not isinstance(text, str):
            raise StclError(f"{file} {key} {number}: has no id and {name}; export it anew")
        if identity in table:
            raise StclError(f"{file} {key} {number}: its id {identity} is there twice; export it anew")
        table[identity] = text
    return table


def _is_heading(category: dict[str, Any], value: dict[str, Any]) -> bool:
    """Roboflow puts the project's name first, as a category that the others are under and no annotation has."""
    others = [item.get("supercategory") for item in value["categories"] if item is not category]
    return category.get("supercategory") == "none" and category["name"] in others
