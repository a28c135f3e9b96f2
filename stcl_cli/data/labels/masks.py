"""A folder of masks: what a mask holds, its photo shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stcl_cli.data.labels.rows import Row, Table
from stcl_cli.data.photos import Photo, list_photos
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import CLASSES, find_classes
from stcl_cli.formats.masks import IGNORE, read_mask
from stcl_cli.runtime.threads import DECODERS, thread_pool
from stcl_cli.wording import shown

VOC_MASKS = "SegmentationClass"


def read(path: Path, classes: Sequence[str] | None) -> Table:
    """Values mean the lines of the classes.txt in or beside the folder; where there is none, `classes`.

    Args:
        path: the folder of the masks, or the one with VOC's SegmentationClass/ in it.

    Raises:
        StclError: no mask, no names for its values, or one that cannot be read.
    """
    path = path / VOC_MASKS if (path / VOC_MASKS).is_dir() else path
    has_names = any((folder / CLASSES).is_file() for folder in (path, path.absolute().parent))
    names = find_classes(None, path) if has_names or classes is None else tuple(classes)

    def row(mask: Photo) -> Row:
        values = np.flatnonzero(np.bincount(read_mask(mask.path).ravel(), minlength=256))
        values = values[(values != 0) & (values != IGNORE)]
        if len(values) and values[-1] > len(names):
            raise StclError(f"{shown(mask.path)}: holds class {values[-1]}, but {len(names)} are known; name them all")
        return Row(shown(mask.path), mask.name, [names[value - 1] for value in values])

    with thread_pool(DECODERS) as pool:
        return Table(list(pool.map(row, list_photos(path).photos)), names)
