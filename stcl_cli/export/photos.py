"""Photos beside exported masks, in the shape in which the masks are."""

from __future__ import annotations

from pathlib import Path

from stcl_cli.data.pixels import is_turned, read_photo
from stcl_cli.export.writer import Item
from stcl_cli.formats.files import atomic_write, output_path
from stcl_cli.formats.images import open_image, write_jpeg

NOT_ULTRALYTICS = (".gif", ".jfif")  # suffixes that its loader passes over


def place_photo(item: Item, folder: Path, name: str, only_jpeg: bool = False) -> None:
    """Copy the item's photo, if it has one, to `folder`/`name` + suffix.

    A copy and no link: Ultralytics repairs JPEGs in place. A photo that is stored lying on its side, which some readers
    do not see, or is no JPEG where only that will do, becomes a new JPEG; so does a GIF.

    Raises:
        PhotoError: it cannot be read.
    """
    if item.photo is None:
        return
    path = item.photo.path
    with open_image(path) as image:
        as_jpeg = only_jpeg or path.suffix.lower() in NOT_ULTRALYTICS
        anew = is_turned(image, path) or (as_jpeg and image.format not in ("JPEG", "MPO"))
        content = b"" if anew else path.read_bytes()  # here, where what goes wrong is the photo's
    if anew:
        write_jpeg(output_path(folder, name, ".jpg"), read_photo(path))
    else:
        with atomic_write(output_path(folder, name, ".jpg" if as_jpeg else path.suffix)) as temporary:
            temporary.write_bytes(content)
