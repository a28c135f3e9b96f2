"""The page itself: one HTML file that asks for nothing, neither of the network nor of a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np

from stcl_cli.config import TrainConfig
from stcl_cli.formats.classes import BACKGROUND
from stcl_cli.formats.files import to_json
from stcl_cli.formats.masks import IGNORE
from stcl_cli.pictures import shown_palette
from stcl_cli.report.charts import HEIGHT, LEFT, RIGHT, WIDTH, Chart, line_chart
from stcl_cli.report.columns import Column, Picture
from stcl_cli.report.folders import Output
from stcl_cli.report.memory import Remembered
from stcl_cli.wording import shown

MARK = b"<!doctype html>\n<!-- a report of stcl -->\n"  # by which a page of ours is known, so that it may be replaced
LAST = ("grad_norm", "lr", "photos_per_second")  # figures of a training that are looked at last
MOST = 1e30  # a figure beyond cannot be drawn
LEGEND_FROM = 0.0005  # of the photo's pixels: what is less is not in the legend


class Key(NamedTuple):
    """An entry of a legend."""

    colour: str
    name: str


class Card(NamedTuple):
    """A photo with all that was made of it."""

    name: str
    facts: list[str]
    pictures: list[Picture]
    legend: list[Key]


class Group(NamedTuple):
    """Photos that are shown for one reason."""

    title: str
    why: str
    cards: list[Card]


class Page(NamedTuple):
    """All that a report holds. `truth` is a column too, compared with nothing; `labels` are photos a class (C)."""

    outputs: Sequence[Output]
    classes: tuple[str, ...]
    images: str
    truth_folder: str
    truth: Column | None
    columns: Sequence[Column]
    labels: np.ndarray | None
    groups: Sequence[Group]
    unreadable: Sequence[tuple[str, str]]
    photos: int
    memory_of: str = ""
    memories: Sequence[Remembered] = ()


def render(page: Page) -> bytes:
    """The page as UTF-8. Every name is escaped by the template engine, and the page's own policy lets no script run."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("stcl_cli.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "shown": shown, "json": to_json}
    compared = [column for column in page.columns if column.miou() is not None]
    html = environment.get_template("page.html").render(
        page=page,
        names=(BACKGROUND, *page.classes),
        histogram=_histogram(page),
        compared=compared,
        ious={column.title: column.iou_per_class() for column in compared},
        confusions={column.title: _shares(column.confusion()) for column in compared},
        sweeps={column.title: chart for column in compared if (chart := _sweep_chart(column))},
        training=[(output, charts) for output in page.outputs if (charts := loss_charts(output.metrics))],
        defaults=TrainConfig,
        drawing={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT},
    )
    return MARK + html.encode("utf-8", "backslashreplace")


def percent(share: float, digits: int = 1) -> str:
    """0.1234 -> '12.3 %', which does not break; NaN -> '–'."""
    return "–" if np.isnan(share) else f"{share * 100:.{digits}f}\u00a0%"


def loss_charts(metrics: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """One chart for each figure in a metrics.jsonl, over the iterations of the whole run."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for record in metrics:
        for name, value in record.items():
            if name != "iteration" and isinstance(value, int | float) and abs(value) < MOST:  # nor NaN
                lines.setdefault(name, []).append((record["iteration"], value))
    end = max((record["iteration"] for record in metrics), default=0)
    order = sorted(lines, key=lambda name: (name != "loss", name in LAST))
    return [line_chart(name, *zip(*lines[name], strict=True), (0, end)) for name in order]


def legend(shares: Mapping[int, float], classes: tuple[str, ...]) -> list[Key]:
    """What the values in a photo's masks mean; each with the share of the pixels it has in one of them."""
    names = {0: BACKGROUND, **dict(enumerate(classes, 1)), IGNORE: "ignored"}
    colours = shown_palette()
    return [
        Key("#{:02x}{:02x}{:02x}".format(*colours[value]), names.get(value, f"no class ({value})"))
        for value, share in sorted(shares.items())
        if share >= LEGEND_FROM
    ]


def _histogram(page: Page) -> list[dict[str, Any]]:
    """Bars a class, one list for each that counts them: {title, values (C), texts (C), widths (C)}."""
    lists = []
    if page.labels is not None:
        lists.append(("photos with the label", page.labels, None))
    for column in (*page.columns, *([page.truth] if page.truth else [])):
        lists.append((f"photos in {column.title}", column.shows, None))
        if column.pixels is not None:
            lists.append((f"pixels in {column.title}", column.pixels, percent))
    return [
        {
            "title": title,
            "texts": [text(value) if text else f"{value:,}" for value in values.tolist()],
            "widths": (values / max(values.max(), 1e-9) * 100).round(1).tolist(),
        }
        for title, values, text in lists
    ]


def _shares(matrix: np.ndarray) -> list[list[float]]:
    """Of the pixels of each true class; NaN for one that the truth does not hold."""
    total = matrix.sum(1, keepdims=True)
    return np.where(total > 0, matrix / np.maximum(total, 1), np.nan).tolist()


def _sweep_chart(column: Column) -> Chart | None:
    if column.sweep is None:
        return None
    curve = column.sweep.curve()[1:]
    scores = np.arange(1, len(curve) + 1) / (len(curve) + 1)
    return line_chart(f"mIoU of {column.title} by background score", scores, curve, (0, 1), int(curve.argmax()))
