"""`stcl report`: output folders -> one HTML page to look through."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stcl_cli.config import CheckConfig, ReportConfig, TrainConfig
from stcl_cli.console import meter, say, warn
from stcl_cli.data.inventory import take_inventory
from stcl_cli.data.outputs import match_outputs
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.data.pixels import read_photo
from stcl_cli.errors import PhotoError, StclError
from stcl_cli.evaluation.comparing import ONLY_BACKGROUND, TrueClasses, read_truth, true_classes
from stcl_cli.formats.files import atomic_write
from stcl_cli.formats.memories import read_memories
from stcl_cli.report.columns import CamColumn, Column, MaskColumn, Picture, jpeg_uri
from stcl_cli.report.folders import Output, find_outputs, images_of
from stcl_cli.report.memory import Remembered, draw_memories
from stcl_cli.report.page import MARK, Card, Group, Page, legend, render
from stcl_cli.stages.output import Done, Result, ToldSkipped, nobody
from stcl_cli.wording import shown

SIDE = 360  # pixels of the pictures' longer side

Reasons = list[tuple[str, str]]  # name -> why it is not in the report


def run(config: ReportConfig, done: Done = nobody) -> Result:
    """Look at everything, write the page. Raises StclError."""
    path = _place(config.output)
    outputs = find_outputs(config.folders)
    known = true_classes(outputs[0].classes, config.truth) if config.truth else None
    classes = tuple(map(shown, known.names if known else outputs[0].classes))
    images, photos, reasons = "", [], []
    if any(output.suffix for output in outputs):
        images = config.images or images_of(outputs)
        photos, reasons = list_photos(images, config.list)
    elif config.images or config.list:
        raise StclError("--images and --list: are for CAMs or masks; give a folder of stcl cam, refine or predict too")
    elif config.truth:
        raise StclError("--truth: is compared with CAMs or masks; give a folder of stcl cam, refine or predict too")
    columns = [_column(output, classes, photos, images) for output in outputs if output.suffix]
    photos = [photo for photo in photos if any(photo.name in column.files for column in columns)]
    truth = _truth(config.truth, photos, known) if config.truth and known else None
    reasons = reasons + survey(photos, columns, truth)
    if truth and truth.seen and truth.tally.blank:
        warn(f"{shown(config.truth or '')}: {ONLY_BACKGROUND}")
    groups, undrawn = choose(photos, columns, truth, config)
    memory_of, memories, forgotten = _memories(outputs, config)
    page = Page(
        outputs=outputs,
        classes=classes,
        images=images,
        truth_folder=config.truth or "",
        truth=truth,
        columns=columns,
        labels=_labels(outputs, len(classes)),
        groups=groups,
        unreadable=reasons + undrawn + forgotten,
        photos=len(photos),
        memory_of=memory_of,
        memories=memories,
    )
    with atomic_write(path) as temporary:
        temporary.write_bytes(render(page))
    skipped = ToldSkipped()
    for name, reason in page.unreadable:
        skipped.add(f"{shown(name)}: {reason}")
    skipped.say_how_many()
    say(f"{path.stat().st_size / 1e6:.1f} MB in {shown(path)}, to be opened in a browser")
    done({"output": path, "photos": len(photos), "shown": sum(len(group.cards) for group in groups)})
    return Result(skipped=len(page.unreadable))


def _place(output: str) -> Path:
    """Where the page goes. StclError if there is something else."""
    path = Path(output)
    if output == "-":
        raise StclError("-o -: a report is a file; name one, such as report.html")
    if path.is_dir():
        raise StclError(f"{shown(path)}: is a folder; name a file with -o, such as {shown(path / 'report.html')}")
    try:
        with open(path, "rb") as file:
            if file.read(len(MARK)) != MARK:
                raise StclError(f"{shown(path)}: is there and is no report of stcl; give another file with -o")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise StclError(f"{shown(path)}: cannot be written ({error.strerror}); give another file with -o") from error
    return path


def _column(output: Output, classes: tuple[str, ...], photos: Sequence[Photo], images: str) -> Column:
    files = match_outputs(output.path, output.suffix, photos).by_photo
    if not files:
        raise StclError(
            f"{shown(output.path)}: holds no file for any photo in {shown(images)}; give --images or --list"
        )
    if output.command == "cam":
        return CamColumn(output.title, classes, files)
    return MaskColumn(output.title, classes, files, own=len(output.classes))


def _truth(folder: str, photos: Sequence[Photo], known: TrueClasses) -> MaskColumn:
    files = match_outputs(folder, ".png", photos).by_photo
    if not files:
        raise StclError(f"{shown(folder)}: holds no true mask for any photo; a mask is named like its photo")
    return MaskColumn("truth", tuple(map(shown, known.names)), files, lambda path: read_truth(path, known))


def _labels(outputs: Sequence[Output], classes: int) -> np.ndarray | None:
    """Photos a class (C), as training counted them; None where there was none or its labels are there no more."""
    for output in outputs:
        if output.command == "train" and output.options.get("images") != "-":  # a list that was used up
            names = ("images", "labels", "labels_format", "list")
            options = {name: output.options[name] for name in names if output.options.get(name) is not None}
            try:
                found = take_inventory(
                    CheckConfig(**options, classes=str(output.path / "classes.txt")), options["labels"]
                )
            except (StclError, KeyError, TypeError):
                continue
            counts = list(found.counts().values())
            return np.pad(counts, (0, classes - len(counts)))  # classes that only the truth has come last
    return None


def _memories(outputs: Sequence[Output], config: ReportConfig) -> tuple[str, list[Remembered], Reasons]:
    """Of the last training whose photos are there: its name, what its memory bank holds, what could not be read."""
    for output in reversed(outputs):
        memories = read_memories(output.path) if output.command == "train" else []
        if not memories:
            continue
        try:
            photos = list_photos(config.images or images_of([output]), output.options.get("list")).photos
        except StclError:
            continue  # the photos are there no more; the rest of the report does not need them
        drawn, reasons = draw_memories(memories, output.classes, {photo.name: photo for photo in photos})
        return output.title, drawn, reasons
    return "", [], []


# ---- which photos ----------------------------------------------------------------------------------------------------


def survey(photos: Sequence[Photo], columns: Sequence[Column], truth: MaskColumn | None) -> Reasons:
    """Read all files of all photos once; what cannot be used is named and left out."""
    reasons: Reasons = []
    with meter("report", len(photos)) as gauge:
        for photo in photos:
            true_HW = None
            if truth and photo.name in truth.files:
                try:
                    true_HW = truth.read(truth.files[photo.name])
                    truth.count(photo.name, true_HW)
                except PhotoError as error:
                    reasons.append((photo.name, str(error)))
            for column in columns:
                if photo.name in column.files:
                    try:
                        column.add(photo.name, true_HW)
                    except PhotoError as error:
                        reasons.append((photo.name, str(error)))
            gauge.advance()
    return reasons


def choose(
    photos: Sequence[Photo], columns: Sequence[Column], truth: MaskColumn | None, config: ReportConfig
) -> tuple[list[Group], Reasons]:
    """The photos to show, worst or most uncertain first, then some of the others; and what cannot be drawn."""
    by_name = {photo.name: photo for photo in photos}
    ranking, title, why = _rank(columns)
    reasons: Reasons = []
    groups = []
    first = _cards((by_name[name] for name in ranking), columns, truth, config.photos, reasons)
    if first:
        groups.append(Group(title, why, first))
    others = sorted(by_name.keys() - {card.name for card in first})
    random.Random(config.seed).shuffle(others)
    rest = _cards((by_name[name] for name in others), columns, truth, config.photos, reasons)
    if rest:
        groups.append(Group("Sampled photos", f"Drawn at random (--seed {config.seed}).", rest))
    return groups, list(dict.fromkeys(reasons))


def _rank(columns: Sequence[Column]) -> tuple[list[str], str, str]:
    """Names of photos, those to look at first; with a title and the reason."""
    compared = [column for column in columns if column.ious()]
    if compared:
        ious = compared[-1].ious()
        why = f"Lowest IoU in {compared[-1].title}, the mean over the classes in a photo's truth."
        return sorted((name for name in ious if ious[name] == ious[name]), key=ious.__getitem__), "Worst photos", why
    doubts = [column.doubt for column in columns if any(column.doubt.values())]
    names = sorted({name for doubt in doubts for name in doubt})
    mean = {name: np.mean([doubt[name] for doubt in doubts if name in doubt]) for name in names}
    why = (
        f"Largest share of pixels that are unsure: CAMs between {TrainConfig.beta_low} and {TrainConfig.beta_high}, "
        "masks of 255."
    )
    return sorted(names, key=lambda name: -mean[name]), "Most uncertain photos", why


def _cards(
    photos: Iterable[Photo], columns: Sequence[Column], truth: MaskColumn | None, most: int, reasons: Reasons
) -> list[Card]:
    cards: list[Card] = []
    for photo in photos:
        if len(cards) == most:
            break
        try:
            cards.append(_card(photo, columns, truth))
        except PhotoError as error:
            reasons.append((photo.name, str(error)))
    return cards


def _card(photo: Photo, columns: Sequence[Column], truth: MaskColumn | None) -> Card:
    pixels = read_photo(photo.path, SIDE)
    pictures, facts, shares = [Picture("photo", jpeg_uri(pixels))], [], {}
    for column in (*columns, *([truth] if truth else [])):
        if photo.name in column.seen:
            drawn = column.draw(photo, pixels)
            pictures += drawn.pictures if column is not truth else drawn.pictures[-1:]
            facts += [drawn.fact] if drawn.fact and column is not truth else []
            shares |= {value: max(share, shares.get(value, 0)) for value, share in drawn.shares.items()}
    return Card(shown(photo.name), facts, pictures, legend(shares, columns[0].classes))
