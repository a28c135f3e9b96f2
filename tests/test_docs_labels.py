"""docs/labels.md says what is so."""

import json
import re
from pathlib import Path

import label_files
import pytest
from click.testing import CliRunner

from stcl_cli.cli import main
from stcl_cli.config import LABEL_FORMATS
from stcl_cli.data.labels import Labels, read_labels

PAGE = (Path(__file__).parent.parent / "docs" / "labels.md").read_text("utf-8")
WRITTEN = sorted(set(re.findall(r"^stcl check images --labels (\S+)", PAGE, re.MULTILINE)))
BLOCKS = re.findall(r"^```(csv|json)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(folder, path in it, format) of the same labels as every tool would write them."""
    top, table = tmp_path_factory.mktemp("written"), label_files.single()
    label_files.draw(top / "images", table)
    places = []
    for number, (write, read_as, _) in enumerate(label_files.WRITERS.values()):
        root = top / str(number)
        root.mkdir()
        (root / "images").symlink_to(top / "images")
        places.append((root, write(root, table).relative_to(root).as_posix(), read_as))
    return places


@pytest.mark.parametrize("path", WRITTEN)
def test_every_command_runs(written, monkeypatch, path):
    places = [(root, read_as) for root, written_path, read_as in written if written_path == path]
    assert places, f"no test writes {path}"
    for root, read_as in places:
        monkeypatch.chdir(root)
        result = CliRunner().invoke(main, ["check", "images", "--labels", path, "--json"])
        assert result.exit_code == 0, result.stderr
        found = json.loads(result.stdout)
        assert (found["labelled"], found["format"], found["missing"]) == (40, read_as, 0)
        assert found["classes"] == dict.fromkeys(label_files.CLASSES, 10)


@pytest.mark.parametrize(("kind", "text"), BLOCKS)
def test_every_example_says_the_same(tmp_path, kind, text):
    (tmp_path / f"labels.{kind}").write_text(text)
    assert read_labels(tmp_path / f"labels.{kind}") == Labels(("cat", "dog"), {"sub/a.jpg": (0, 1), "b": (1,), "c": ()})


def test_every_format_has_its_row():
    assert len(BLOCKS) == 5
    assert {"auto", *re.findall(r"^\| `([a-z][a-z-]+)` \|", PAGE, re.MULTILINE)} == set(LABEL_FORMATS)
