"""docs/commands.md names every field that a command prints as JSON, in the command's own section."""

import json
import re
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from helpers import write_photo

from stcl_cli.cli import main
from stcl_cli.formats.classes import write_classes
from stcl_cli.formats.masks import write_mask

SECTIONS = re.split(r"^## ", (Path(__file__).parent.parent / "docs" / "commands.md").read_text("utf-8"), flags=re.M)


COMMANDS = (
    "check photos --labels labels.csv --masks masks --json",
    "eval masks --truth masks",
    "export masks --images photos --to voc -o voc --json",
    "export masks --images photos --to coco -o coco --json",
    "refine masks --images photos --method crf --confidence 0.9 --workers 1 --overlays looks -o refined --json",
    "report refined --json",
)


def test_every_field_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        write_photo(Path(f"photos/{name}.png"), np.zeros((8, 9, 3), np.uint8))
        write_mask(Path(f"masks/{name}.png"), np.eye(8, 9, dtype=np.uint8))
    write_classes(Path("masks/classes.txt"), ("cat",))
    Path("labels.csv").write_text("image,labels\na.png,cat\nb.png,\n")
    for command in COMMANDS:
        result = CliRunner().invoke(main, command.split(), catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        (section,) = (text for text in SECTIONS if text.startswith(f"{command.split()[0]}\n"))
        documented = set(re.findall(r"`(\w+)`", section))
        found = set().union(*(fields(json.loads(line)) for line in result.stdout.splitlines()))
        assert found
        assert found - documented == set()


def fields(value):
    """Names of an object's fields; names of classes are no fields."""
    if not isinstance(value, dict):
        return set()
    named = {"classes", "per_class", "sizes"}
    inner = (fields(item) for name, item in value.items() if name not in named)
    return {name.replace("_names", "") for name in value}.union(*inner)
