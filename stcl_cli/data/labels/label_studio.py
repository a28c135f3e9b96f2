"""Label Studio's JSON: a list of tasks, each with its data and annotations."""

from __future__ import annotations

from typing import Any

from stcl_cli.data.labels.json_file import image_of
from stcl_cli.data.labels.rows import IMAGE_KEYS, Row, Table, class_names, file_in, key_of
from stcl_cli.data.matching import SUFFIXES
from stcl_cli.errors import StclError


def read(value: Any, file: str) -> Table:
    """Choices and the labels of boxes, outlines, brushes and points; those of several annotators add up.

    A task without annotations is one that nobody has looked at: it is left out. Cancelled annotations do not count.

    Raises:
        StclError: another layout; names the task.
    """
    if not isinstance(value, list):
        raise StclError(f"{file}: is no list of tasks; export JSON from Label Studio")
    rows = []
    for number, task in enumerate(value, 1):
        origin = f"{file} task {task.get('id', number) if isinstance(task, dict) else number}"
        try:
            made = [item for item in task["annotations"] if not item.get("was_cancelled")]
            names = [class_names(_labels(result), origin) for item in made for result in item["result"]]
            data = dict(task["data"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StclError(f"{origin}: has no data and annotations; export JSON from Label Studio") from error
        if made:
            rows.append(Row(origin, file_in(_photo(data, origin)), [name for some in names for name in some]))
    return Table(rows)


def _labels(result: dict[str, Any]) -> Any:
    """What a result says of the photo: results that are no labels (text, ratings, relations) say nothing."""
    value = result.get("value")
    says = isinstance(value, dict) and any(key == "choices" or key.endswith("labels") for key in value)
    return value if says else None


def _photo(data: dict[str, Any], origin: str) -> str:
    """The value that ends like a photo, of those with a usual name, else whatever the project calls it."""
    for value in [value for name, value in data.items() if key_of(name) in IMAGE_KEYS] + [*data.values()]:
        if isinstance(value, str) and file_in(value).lower().endswith(SUFFIXES):
            return value
    return image_of(data, origin)
