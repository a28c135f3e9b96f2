"""JSON: {photo: classes}, a list of objects, JSON lines; and what kind of JSON a file is."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from stcl_cli.data.labels.rows import IMAGE_KEYS, LABEL_KEYS, Row, Table, class_names, is_flags, key_of, uploaded_file
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import clean_name
from stcl_cli.formats.files import read_text
from stcl_cli.wording import shown


def load(path: Path) -> Any:
    """The value in a file of JSON, or the list of the values in one of JSON lines.

    Raises:
        StclError: unreadable, neither of the two, or an object with the same key twice.
    """
    file, text = shown(path), read_text(path)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            double = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
            raise StclError(f"{file}: an object has the key '{shown(double)}' twice; put the two together")
        if "image_id" in value and "category_id" in value:  # of COCO's annotations outlines are nine tenths
            return {"image_id": value["image_id"], "category_id": value["category_id"]}
        return value

    decoder = json.JSONDecoder(object_pairs_hook=unique)
    try:
        return decoder.decode(text)
    except (ValueError, RecursionError) as error:
        whole = error
    values = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                values.append(decoder.decode(line))
            except (ValueError, RecursionError) as error:
                if values:
                    raise StclError(f"{file} line {number}: is not JSON ({error}); correct it") from error
                raise StclError(f"{file}: is not JSON ({whole}); correct it or write it anew") from error
    return values


def kind_of(value: Any) -> str:
    """'coco', 'label-studio' or plain 'json'."""
    if isinstance(value, dict) and isinstance(value.get("images"), list) and {"annotations", "categories"} & set(value):
        return "coco"
    if isinstance(value, list) and value and isinstance(value[0], dict) and isinstance(value[0].get("data"), dict):
        return "label-studio"
    return "json"


def read(value: Any, file: str) -> Table:
    """{photo: classes}, or objects with a photo and its classes or a key of 0 or 1 for each class.

    Raises:
        StclError: another layout; names file and key or item.
    """
    if isinstance(value, dict) and not _is_object(value):
        return Table([Row(o := f"{file} key '{shown(key)}'", key, class_names(v, o)) for key, v in value.items()])
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise StclError(f'{file}: holds neither an object nor a list; write {{"image": ["class", ...], ...}}')
    rows: list[Row] = []
    columns: dict[str, None] = {}
    labels = _label_keys(value)
    for number, item in enumerate(value, 1):
        origin = f"{file} item {number}"
        if not isinstance(item, dict):
            raise StclError(f'{origin}: is no object; write {{"image": "a.jpg", "labels": ["class", ...]}}')
        name = image_of(item, origin)
        if labels:  # Label Studio leaves the key out where nothing was chosen
            rows.append(Row(origin, name, [one for key in labels for one in class_names(item.get(key), origin)]))
            continue
        flags = {key: flag for key, flag in item.items() if key_of(key) not in IMAGE_KEYS}
        if not flags or not is_flags(flags.values()):
            raise StclError(f'{origin}: has no key "labels"; name the key with its classes so')
        rows.append(Row(origin, name, class_names(flags, origin)))
        columns.update(dict.fromkeys(map(clean_name, flags)))
    return Table(rows, list(columns) or None)


def image_of(item: dict[str, Any], origin: str) -> str:
    """The photo's name under one of the keys that people give it."""
    for key, value in item.items():
        if key_of(key) in IMAGE_KEYS and isinstance(value, str | int):
            return uploaded_file(str(value))
    raise StclError(f'{origin}: has no key "image"; name the key with its photo so')


def _label_keys(items: list[Any]) -> list[str]:
    """The keys in any of the objects that hold classes by their names; not numbers, where others hold names."""
    keys: dict[str, bool] = {}  # whether it holds more than numbers
    for item in items:
        if isinstance(item, dict):
            for key in item:
                if key_of(key) in LABEL_KEYS:
                    keys[key] = keys.get(key, False) or not isinstance(item[key], int | float)
    return [key for key, named in keys.items() if named or not any(keys.values())]


def _is_object(value: dict[str, Any]) -> bool:
    """Whether a dictionary is one object of JSON lines, not a table of photos: a single line may be either."""
    keys = [key_of(key) for key in value]
    return not IMAGE_KEYS.isdisjoint(keys) and not LABEL_KEYS.isdisjoint(keys)
