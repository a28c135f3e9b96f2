"""`stcl check`: looks at photos, labels and masks as the other commands will, and says what it found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from stcl_cli.config import CheckConfig
from stcl_cli.console import meter, say, say_table, warn
from stcl_cli.data.inventory import Inventory, take_inventory
from stcl_cli.data.outputs import match_outputs, no_mask
from stcl_cli.data.photo_masks import MaskSizeError, MaskTally, count_values, read_full_mask
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.data.pixels import has_frames, photo_size, read_photo
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats.classes import find_classes
from stcl_cli.runtime.threads import DECODERS, thread_pool
from stcl_cli.stages.output import Result, ToldSkipped
from stcl_cli.wording import shown, some

SIDE = 512  # to which photos are reduced while reading, as in training: JPEGs decode faster so
NEARLY_BLACK = 32  # of 255: 10 or 12 bits in the lower part of 16 are all below, but for a few broken pixels


class _Look(NamedTuple):
    """What a photo and its mask turned out to be, or why one of them cannot be used."""

    photo: Photo
    size: tuple[int, int] | None  # H, W; None for a photo that cannot be read
    values: np.ndarray | None = None  # pixels of each value in the mask, (256,)
    reason: str = ""
    wrong_size: bool = False
    nearly_black: bool = False
    several_frames: bool = False


def run(config: CheckConfig) -> Result:
    """Look at everything. Raises StclError."""
    if not config.labels and config.labels_format != "auto":
        raise StclError(f"--labels-format {config.labels_format}: give the labels too, with --labels")
    if not config.labels and not config.masks and config.classes:
        raise StclError(f"--classes {shown(config.classes)}: give what has those classes too, with --labels or --masks")
    found = take_inventory(config, config.labels) if config.labels else None
    if found:
        photos, unread, skipped = found.photos, found.unread, found.skipped()
    else:
        photos, unread = list_photos(config.images, config.list)
        skipped = unread
    masks, classes, orphans = {}, (), []
    if config.masks:
        masks, orphans = match_outputs(config.masks, ".png", photos)
        classes = find_classes(config.classes, Path(config.masks))
        if not masks:
            raise no_mask(config.masks, config.images)
    tally = MaskTally(classes)
    reasons, sizes, wrong_size = dict(skipped), [], 0
    nearly_black, several_frames = [], []
    with meter("check", len(photos)) as gauge:
        for look in _looks(photos, masks, len(classes)):
            if look.size:
                sizes.append(look.size)
            if look.values is not None:
                tally.add(look.photo.name, look.values)
            wrong_size += look.wrong_size
            if look.nearly_black:
                nearly_black.append(look.photo.name)
            if look.several_frames:
                several_frames.append(look.photo.name)
            if look.reason:
                reasons.setdefault(look.photo.name, look.reason)
            gauge.advance()
    summary: dict[str, Any] = {"photos": len(photos), "unreadable": len(photos) - len(sizes), "not_read": len(unread)}
    summary |= {"sizes": _sizes(sizes), "nearly_black": nearly_black, "several_frames": several_frames}
    if found:
        summary |= {
            "labelled": len(found.labelled),
            "unlabelled": len(found.unlabelled),
            "missing": len(found.missing),
            "format": found.labels.format,
            "classes": found.counts(),
        }
    if config.masks:
        unmatched = {"photos_without": len(photos) - len(masks), "without_photo": len(orphans)}
        unmatched["photos_without_names"] = [photo.name for photo in photos if photo.name not in masks]
        unmatched["without_photo_names"] = [name for name, _ in orphans]
        summary["masks"] = tally.summary() | unmatched | {"size_mismatches": wrong_size}
    summary["skipped"] = [{"image": name, "reason": reason} for name, reason in reasons.items()]
    _report(summary, found)
    return Result(summary=summary if config.json else None, skipped=len(reasons))


def _looks(photos: Sequence[Photo], masks: dict[str, Path], classes: int) -> Iterator[_Look]:
    """One for each photo, in order, a few at a time."""

    def look(photo: Photo) -> _Look:
        size = values = None
        seen: dict[str, bool] = {}
        try:
            pixels_HW3 = read_photo(photo.path, SIDE)
            seen["nearly_black"] = bool((pixels_HW3.max(2) >= NEARLY_BLACK).mean() < 0.001)
            seen["several_frames"] = has_frames(photo.path)
            size = photo_size(photo.path)
            if photo.name in masks:
                values = count_values(read_full_mask(masks[photo.name], photo, classes))
        except PhotoError as error:
            return _Look(photo, size, values, str(error), isinstance(error, MaskSizeError), **seen)
        return _Look(photo, size, values, **seen)

    with thread_pool(DECODERS) as pool:
        for start in range(0, len(photos), 256):
            yield from pool.map(look, photos[start : start + 256])


def _sizes(sizes: list[tuple[int, int]]) -> dict[str, list[int]] | None:
    """Width and height of the photos with the fewest, the middle and the most pixels."""
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    if not ordered:
        return None
    places = {"min": 0, "median": len(ordered) // 2, "max": -1}
    return {name: [ordered[place][1], ordered[place][0]] for name, place in places.items()}


# ---- for people ------------------------------------------------------------------------------------------------------


def _report(summary: dict[str, Any], found: Inventory | None) -> None:
    masks = summary.get("masks")
    lines = [("photos", f"{summary['photos']:,}")]
    if summary["sizes"]:
        sizes = {name: f"{width} x {height}" for name, (width, height) in summary["sizes"].items()}
        lines.append(("sizes", f"{sizes['min']} to {sizes['max']}, median {sizes['median']}"))
    lines.append(("unreadable", f"{summary['unreadable']:,}"))
    if summary["not_read"]:
        lines.append(("not read", f"{summary['not_read']:,}"))
    if found:
        lines.append(("with labels", f"{summary['labelled']:,} (read as {summary['format']})"))
        lines.append(("without labels", f"{summary['unlabelled']:,}"))
        lines.append(("labels without photo", f"{summary['missing']:,}"))
    if masks:
        lines.append(("with a usable mask", f"{masks['masks']:,}"))
        lines += [
            (title, f"{masks[which]:,}" + (f" ({some(masks[which + '_names'], 3)})" if masks[which] else ""))
            for title, which in (("without mask", "photos_without"), ("mask without photo", "without_photo"))
        ]
        lines.append(("mask of another size", f"{masks['size_mismatches']:,}"))
        lines.append(("background", f"{masks['background']:.1%} of the pixels"))
        lines.append(("ignored (255)", f"{masks['ignored']:.1%} of the pixels"))
    for name, value in lines:
        say(f"{name:>20}  {value}")
    if found or masks:
        _print_classes(summary.get("classes"), masks and masks["classes"])
    for warning in found.warnings() if found else []:
        warn(warning)
    if masks and masks["all_background"]:
        names = masks["all_background"]
        warn(f"{_count(names, 'mask')} all background (0) or ignored (255): {some(names)}")
    if names := summary["nearly_black"]:
        warn(f"{_count(names, 'photo')} nearly black: {some(names)}; if they are 12 bits in files of 16, times 16")
    if names := summary["several_frames"]:
        warn(f"{_count(names, 'photo')} the first of several pages or frames: {some(names)}; save each as a file")
    skipped = ToldSkipped(say, "would be skipped:", "--json or --verbose")
    for item in summary["skipped"]:
        skipped.add(f"{shown(item['image'])}: {item['reason']}")
    skipped.say_how_many()


def _print_classes(labelled: dict[str, int] | None, masks: dict[str, Any] | None) -> None:
    """A table of at most 80 columns, whatever the names."""
    table = Table()
    table.add_column("class", overflow="fold")
    for title in (["photos"] if labelled is not None else []) + (
        ["masks", "of all pixels"] if masks is not None else []
    ):
        table.add_column(title, justify="right", no_wrap=True)
    for name in dict.fromkeys([*(labelled or {}), *(masks or {})]):
        cells = [f"{labelled.get(name, 0):,}"] if labelled is not None else []
        if masks is not None:
            held = masks.get(name, {"masks": 0, "share": 0})
            cells += [f"{held['masks']:,}", f"{held['share']:.2%}"]
        table.add_row(shown(name), *cells)
    say_table(table)


def _count(items: Sequence[Any], what: str) -> str:
    return f"1 {what} is" if len(items) == 1 else f"{len(items):,} {what}s are"
