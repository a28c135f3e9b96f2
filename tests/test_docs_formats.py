"""docs/formats.md has every format that the command line knows."""

import re
from pathlib import Path

from stcl_cli.config import LABEL_FORMATS, ExportConfig
from stcl_cli.formats.images import FORMATS

ROOT = Path(__file__).parent.parent
TABLE, HANDWRITTEN = (ROOT / "docs" / "formats.md").read_text("utf-8").split("## What is hand-written")


def test_every_format_is_in_the_table():
    read = re.findall(r"^\|[^|]*\(`([a-z-]+)`\)[^|]*\| `--labels` \|", TABLE, re.MULTILINE)
    assert sorted([*read, "auto", "masks"]) == sorted(LABEL_FORMATS)
    assert set(re.findall(r"`--to ([a-z-]+)`", TABLE)) == set(
        ExportConfig.__dataclass_fields__["to"].metadata["choices"]
    )
    photos = next(line for line in TABLE.splitlines() if line.startswith("| **Photos**"))
    assert all(name.lower() in photos.lower() for name in FORMATS)


def test_what_is_hand_written_is_still_there():
    paths = re.findall(r"`([a-z_/]+\.py)`", HANDWRITTEN)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / "stcl_cli" / path).is_file()] == []
