import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from stcl_cli.cli import main
from stcl_cli.config import ExportConfig
from stcl_cli.errors import StclError
from stcl_cli.export.npy import NpyWriter
from stcl_cli.formats.masks import write_mask
from stcl_cli.stages import export

MASK = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)


@pytest.fixture
def folder(tmp_path):
    for name in ("a", "sub/b"):
        write_mask(tmp_path / "masks" / f"{name}.png", MASK)
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (3, 2)).save(tmp_path / "photos" / f"{name}.jpg")
    (tmp_path / "masks" / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


def config(folder, to="npy", **settings):
    return ExportConfig(masks=str(folder / "masks"), to=to, output=str(folder / "out"), **settings)


def skipped(folder):
    return {
        record["image"]: record["reason"]
        for record in map(json.loads, (folder / "out" / "failed.jsonl").read_text().splitlines())
    }


def test_every_format_is_an_option_and_every_option_a_format():
    field = ExportConfig.__dataclass_fields__["to"]
    assert tuple(export.WRITERS) == field.metadata["choices"]


def test_items_as_they_are_finished(folder):
    items = []

    def done(item):
        assert os.path.exists(item["output"])
        items.append(item)

    assert export.run(config(folder), done).skipped == 0
    out = folder / "out"
    assert items == [
        {"image": "a", "output": out / "a.npy"},
        {"image": "sub/b", "output": out / "sub" / "b.npy"},
    ]


@pytest.mark.parametrize(("to", "file"), [("coco", "annotations/instances_train.json"), ("cvat", "cvat.zip")])
def test_one_file_is_one_item(folder, to, file):
    items = []
    export.run(config(folder, to), items.append)
    assert items == [{"images": 2, "output": folder / "out" / file}]


@pytest.mark.parametrize("to", export.WRITERS)
def test_resume_gives_what_one_go_gives(folder, to, monkeypatch):
    def files():
        return {
            path.relative_to(folder / "out"): path.read_bytes()
            for path in (folder / "out").rglob("*")
            if path.is_file()
        }

    settings = {"images": str(folder / "photos")}
    export.run(config(folder, to, **settings))
    whole = files()
    write = export.WRITERS[to].write

    def stop(self, item):
        if item.name == "sub/b":
            raise KeyboardInterrupt
        write(self, item)

    monkeypatch.setattr(export.WRITERS[to], "write", stop)
    with pytest.raises(KeyboardInterrupt):
        export.run(config(folder, to, overwrite=True, **settings))
    assert files().keys() < whole.keys()
    monkeypatch.undo()
    export.run(config(folder, to, resume=True, **settings))
    assert files() == whole


def test_what_is_done_is_not_done_again(folder, monkeypatch):
    export.run(config(folder))
    (folder / "out" / "sub" / "b.npy").unlink()
    written = []
    monkeypatch.setattr(NpyWriter, "write", lambda self, item: written.append(item.name))
    export.run(config(folder, resume=True))
    assert written == ["sub/b"]


def test_what_other_tools_could_not_use_is_skipped_with_the_reason(folder):
    write_mask(folder / "masks" / "high.png", np.full((2, 3), 3, np.uint8))
    write_mask(folder / "masks" / "large.png", np.zeros((3, 2), np.uint8))
    write_mask(folder / "masks" / "line\nbreak.png", MASK)
    write_mask(folder / "masks" / "orphan.png", MASK)
    (folder / "masks" / "broken.png").write_text("no image")
    for name in ("high", "large", "line\nbreak", "broken", "maskless"):
        Image.new("RGB", (3, 2)).save(folder / "photos" / f"{name}.jpg")
    assert export.run(config(folder, "voc", images=str(folder / "photos"))).skipped == 5
    reasons = skipped(folder)
    assert set(reasons) == {"high", "large", "line\nbreak", "broken", "orphan"}
    assert "holds class 3, but there are 2 classes; name them all in a classes.txt" in reasons["high"]
    assert "the mask is 2 x 3, its photo 3 x 2; make it anew of that photo" in reasons["large"]
    assert "control character" in reasons["line\nbreak"]
    assert (folder / "out" / "ImageSets" / "Segmentation" / "train.txt").read_text() == "a\nsub/b\n"


def test_classes_may_be_named(folder):
    (folder / "names.txt").write_text("x\ny\n")
    export.run(config(folder, "cvat", classes=str(folder / "names.txt")))
    assert (folder / "out" / "classes.txt").read_text() == "background\nx\ny\n"


def test_masks_among_photos_have_their_own_names(folder):
    """a.jpg beside a.png, as some tools want it."""
    for name in ("a", "sub/b"):
        shutil.copy(folder / "photos" / f"{name}.jpg", folder / "masks" / f"{name}.jpg")
    (folder / "masks" / "a.png").rename(folder / "masks" / "a.PNG")
    assert export.run(config(folder)).skipped == 0
    assert sorted(path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*.npy")) == [
        "a.npy",
        "sub/b.npy",
    ]


def test_a_mask_alone_that_is_to_be_turned(folder):
    """Its own Exif rotation is no other size."""
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(MASK).save(folder / "masks" / "turned.png", exif=exif)
    assert export.run(config(folder)).skipped == 0
    assert np.load(folder / "out" / "turned.npy").tolist() == MASK.tolist()


def test_a_name_that_the_format_cannot_hold_leaves_no_folder(folder):
    (folder / "names.txt").write_text("a:b\ny\n")
    with pytest.raises(StclError, match=r"class 'a:b': labelmap\.txt cannot hold this name"):
        export.run(config(folder, "voc", classes=str(folder / "names.txt")))
    assert not (folder / "out").exists()


def test_nothing_to_export(folder):
    (folder / "empty").mkdir()
    with pytest.raises(StclError, match=r"empty: holds no mask \(PNG\); give the folder of"):
        export.run(ExportConfig(masks=str(folder / "empty"), to="npy", output=str(folder / "out")))
    Image.new("RGB", (3, 2)).save(folder / "empty" / "other.jpg")
    with pytest.raises(StclError, match=r"holds no mask \(PNG\) for any photo in"):
        export.run(config(folder, images=str(folder / "empty")))
    (folder / "masks" / "classes.txt").write_text("cat\n")
    with pytest.raises(StclError, match="none of its masks could be exported"):
        export.run(config(folder, "coco"))
    assert not list((folder / "out" / "annotations").iterdir())


@pytest.mark.parametrize(("to", "said"), [("coco", True), ("yolo", True), ("cvat", True), ("voc", False)])
def test_it_is_said_where_ignored_pixels_get_lost(folder, to, said, capsys):
    export.run(config(folder, to))
    assert (f"16.7% of the pixels are 255 (ignored), which {to} cannot say" in capsys.readouterr().err) is said


def commands_in_the_documentation():
    text = Path(__file__).parents[2].joinpath("docs", "export.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("stcl export")]


def test_the_documentation_shows_every_format():
    assert [line.split()[4] for line in commands_in_the_documentation()] == list(export.WRITERS)


@pytest.mark.parametrize("command", commands_in_the_documentation())
def test_the_documentation_s_commands_run(folder, command, monkeypatch):
    monkeypatch.chdir(folder)
    result = CliRunner().invoke(main, command.split()[1:])
    assert result.exit_code == 0
    assert all(Path(line).is_file() for line in result.stdout.splitlines())
    assert result.stdout
