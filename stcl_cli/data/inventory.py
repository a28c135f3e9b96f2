"""What photos and labels there are: what `stcl train` starts from and `stcl check` reports."""

from __future__ import annotations

import filecmp
import posixpath
from collections import Counter
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from stcl_cli.config import CheckConfig, TrainConfig
from stcl_cli.data.labels import Labels, match_labels, none_matched, read_labels
from stcl_cli.data.matching import stem
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.formats.classes import read_classes
from stcl_cli.wording import counted, shown, some

RARE, ALIKE = 2, 0.85  # photos of a class that may be a typing error, and how alike another's name is then
# What photos without any class are called in a table, or their folder.
# fmt: off
NOTHING_SHOWN = frozenset({
    "-", "no", "false", "none", "nothing", "negative", "neg", "normal", "ok", "good", "clean", "empty", "pass",
    "healthy", "no defect", "no_defect", "nein", "falsch", "nichts", "leer", "gut", "io", "i.o.", "non", "nee", "nie",
})
# fmt: on
FEW = 5  # photos; masks of classes of one, two and three among 69 had an IoU of 0.00 to 0.05, of others 0.67 and up


class Inventory(NamedTuple):
    """Photos and their labels.

    Attributes:
        photos: all, with labels or without.
        labelled: those with labels, as indices into `labels.classes`.
        unlabelled, missing: (name, reason) of photos without labels, and of labels without a photo.
        unread: (name, reason) of what is no photo that can be had: a HEIC, or a name of the list that is not there.
    """

    photos: list[Photo]
    labels: Labels
    labelled: list[tuple[Photo, tuple[int, ...]]]
    unlabelled: list[tuple[str, str]]
    missing: list[tuple[str, str]]
    unread: list[tuple[str, str]]

    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of all that cannot be learned from."""
        return self.unread + self.missing + self.unlabelled

    def counts(self) -> dict[str, int]:
        """Class -> photos that show it, in the order of the classes."""
        number = Counter(index for _, shows in self.labelled for index in shows)
        return {name: number[index] for index, name in enumerate(self.labels.classes)}

    def warnings(self) -> list[str]:
        """What will not go well although nothing is wrong with the files."""
        counts = self.counts()
        nowhere = [name for name, count in counts.items() if not count]
        everywhere = [name for name, count in counts.items() if count == len(self.labelled)]
        warnings = []
        if header := self._header():
            warnings.append(
                f"no photo is called {shown(header)}, and none shows {some(nowhere)}: if that is the table's header, "
                "make it image,labels"
            )
        elif nowhere:
            warnings.append(f"no photo shows {some(nowhere)}: take the name out or add photos")
        if everywhere:
            them = "it" if len(everywhere) == 1 else "them"
            what = f"add photos without {them}, or nothing tells {them} from what is around {them}"
            warnings.append(f"every photo shows {some(everywhere)}: {what}")
        by_count = sorted(counts, key=counts.__getitem__, reverse=True)
        for place, name in enumerate(by_count):
            others = {other.casefold(): other for other in reversed(by_count[:place])}
            alike = [name.casefold()] if name.casefold() in others else []
            if 0 < counts[name] <= RARE and not alike:
                more = [key for key, other in others.items() if counts[other] > counts[name]]
                alike = get_close_matches(name.casefold(), more, 1, cutoff=ALIKE)
            for other in (others[key] for key in alike):
                warnings.append(
                    f"class {shown(name)} ({counts[name]}) is spelt nearly like {shown(other)} ({counts[other]}): "
                    "make one of two if they are the same"
                )
        if copies := self._copies():
            warnings.append(
                f"{some(copies)}: in several class folders, where each copy counts as a photo of that class alone; "
                "list photos of several classes in a table"
            )
        parts = {name: {part.strip() for part in name.split(",")} for name in counts}
        often = Counter(part for own in parts.values() for part in own)
        several = [name for name, own in parts.items() if len(own) > 1 and any(often[part] > 1 for part in own)]
        warnings += [f"class {shown(name)} looks like several in one: write ';' between classes" for name in several]
        warnings += [
            f"class {shown(name)} sounds like photos that show nothing: if so, call it background"
            for name in counts
            if name.casefold() in NOTHING_SHOWN
        ]
        few = [name for name, count in counts.items() if 0 < count < FEW]
        if few and max(counts.values()) >= 2 * FEW:  # a handful of photos for a trial is no accident
            shows = some([f"{name} ({counts[name]})" for name in few])
            warnings.append(f"few photos show {shows}: a class of less than {FEW} is hardly learnt; add photos of it")
        return warnings

    def _copies(self) -> list[str]:
        """File names under which the same photo lies in several class folders; of the first thousand that may be."""
        if self.labels.format != "folders":
            return []
        paths: dict[str, list[Path]] = {}
        for photo, _ in self.labelled:
            paths.setdefault(photo.path.name, []).append(photo.path)
        several = islice(((name, same) for name, same in paths.items() if len(same) > 1), 1000)
        return [name for name, (first, *others) in several if any(_are_same(first, other) for other in others)]

    def _header(self) -> str:
        """The first name of a table that is perhaps its header, in words unknown to the reader, else ''.

        It is no photo's nor a file's, and no photo shows the class that stands behind it.
        """
        first, shows = next(iter(self.labels.by_name.items()))
        is_photo = all(name != first for name, _ in self.missing)
        shown_by_none = shows and not any(set(shows) & set(others) for _, others in self.labelled)
        is_word = self.labels.format == "csv" and stem(first) == first
        return first if is_word and not is_photo and shown_by_none else ""


def _are_same(one: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(one, other, shallow=False)  # reads them only where they are of one size
    except OSError:  # who reads the photo says so
        return False


def take_inventory(config: TrainConfig | CheckConfig, labels: str) -> Inventory:
    """Find the photos, read `labels`, bring them together.

    Raises:
        StclError: either cannot be used, or no photo has a label.
    """
    classes = read_classes(Path(config.classes)) if config.classes else None
    table = read_labels(labels, classes, config.labels_format)
    photos, unread = list_photos(config.images, config.list)
    missing = []
    labelled, unlabelled, unknown = match_labels(photos, table)
    if not labelled:
        raise none_matched(labels, table, config.images, photos)
    if config.list is None:  # with --list, labels of photos left out are no mistake
        told = {stem for name, _ in unread for stem in (name, posixpath.splitext(name)[0])}
        unknown = [(name, reason) for name, reason in unknown if name not in told]
        shared = {reason: f"{shown(labels)}: {reason} in {shown(config.images)}" for _, reason in unknown}
        missing = [(name, shared[reason]) for name, reason in unknown]  # of millions, all say the same
    reason = f"no label in {shown(labels)}"
    without = [(photo.name, reason) for photo in unlabelled]
    return Inventory(photos, table, labelled, without, missing, unread)


def describe(found: Inventory) -> list[str]:
    """The essentials, in a line or two."""
    counts = found.counts()
    fewest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    labelled = f"{counted(len(found.labelled), 'photo')} with labels ({found.labels.format})"
    return [
        f"{labelled}, {len(found.unlabelled):,} without, "
        f"{counted(len(found.missing), 'label')} without a photo"
        + (f", {len(found.unread):,} not read" if found.unread else ""),
        f"{counts[fewest]:,} ({shown(fewest)}) to {counts[most]:,} ({shown(most)}) photos a class"
        if len(counts) > 1
        else f"{counted(counts[most], 'photo')} of class {shown(most)}",
    ]
