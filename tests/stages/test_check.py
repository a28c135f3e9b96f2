import json
import os
import re
import subprocess
import sys

import label_files
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from stcl_cli.cli import main
from stcl_cli.config import CheckConfig, SegtrainConfig, TrainConfig
from stcl_cli.errors import StclError
from stcl_cli.formats.files import to_json
from stcl_cli.formats.masks import write_mask
from stcl_cli.stages import check


@pytest.fixture
def folder(tmp_path):
    """Photos of 2 x 2 to 6 x 4 pixels: a, b and sub/c with labels and masks; d with none; e broken."""
    photos = tmp_path / "photos"
    (photos / "sub").mkdir(parents=True)
    for name, size in {"a": (2, 2), "b": (6, 4), "sub/c": (4, 2), "d": (3, 3)}.items():
        Image.new("RGB", size, "white").save(photos / f"{name}.jpg")
    whole = (photos / "a.jpg").read_bytes()
    (photos / "e.jpg").write_bytes(whole[: len(whole) - 40])
    (tmp_path / "labels.csv").write_text("a,cat\nb.jpg,cat;dog\nsub/c,dog\ne,\nf,dog\n")
    for name, mask in {"a": [[0, 1], [1, 255]], "b": np.zeros((4, 6)), "sub/c": [[1]], "none": [[0]]}.items():
        write_mask(tmp_path / "masks" / f"{name}.png", np.asarray(mask, np.uint8))
    (tmp_path / "masks" / "classes.txt").write_text("cat\ndog\n")
    return tmp_path


def run(folder, **settings):
    settings = {key: str(folder / value) for key, value in settings.items()}
    return check.run(CheckConfig(images=str(folder / "photos"), json=True, **settings))


def test_what_is_found(folder):
    result = run(folder, labels="labels.csv", masks="masks")
    skipped = {item["image"]: item["reason"] for item in result.summary.pop("skipped")}
    assert result.summary == {
        "photos": 5,
        "unreadable": 1,
        "not_read": 0,
        "sizes": {"min": [2, 2], "median": [3, 3], "max": [6, 4]},
        "nearly_black": [],
        "several_frames": [],
        "labelled": 4,
        "unlabelled": 1,
        "missing": 1,
        "format": "csv",
        "classes": {"cat": 2, "dog": 2},
        "masks": {
            "masks": 2,
            "classes": {"cat": {"masks": 1, "share": round(2 / 28, 6)}, "dog": {"masks": 0, "share": 0.0}},
            "background": round(25 / 28, 6),
            "ignored": round(1 / 28, 6),
            "all_background": ["b"],
            "photos_without": 2,
            "photos_without_names": ["d", "e"],
            "without_photo": 1,
            "without_photo_names": ["none"],
            "size_mismatches": 1,
        },
    }
    assert set(skipped) == {"d", "e", "f", "sub/c"}
    assert "no label in" in skipped["d"]
    assert "cannot be decoded" in skipped["e"]
    assert "has labels, but no photo" in skipped["f"]
    assert "the mask is 1 x 1, its photo 4 x 2" in skipped["sub/c"]
    assert result.skipped == 4


def test_photos_alone(folder):
    result = run(folder)
    expected = {"photos", "unreadable", "not_read", "sizes", "nearly_black", "several_frames", "skipped"}
    assert set(result.summary) == expected
    assert [item["image"] for item in result.summary["skipped"]] == ["e"]


def test_photos_of_which_little_is_seen(folder):
    """12 bits in the lowest part of 16, and more pages than one: both are read, but not as their maker meant it."""
    twelve_bits = np.full((9, 9), 4095, np.uint16)
    with_a_broken_pixel = np.pad(twelve_bits, ((0, 40), (0, 40)), mode="edge")
    with_a_broken_pixel[20, 20] = 65_535
    Image.fromarray(with_a_broken_pixel).save(folder / "photos" / "dim.png")
    Image.fromarray(twelve_bits * 16).save(folder / "photos" / "scaled.png")
    pages = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    pages[0].save(folder / "photos" / "stack.tif", save_all=True, append_images=pages[1:])
    summary = run(folder).summary
    assert (summary["nearly_black"], summary["several_frames"]) == (["dim"], ["stack"])
    result = CliRunner().invoke(main, ["check", str(folder / "photos")])
    assert "1 photo is nearly black: dim; if they are 12 bits in files of 16" in result.stderr
    assert "1 photo is the first of several pages or frames: stack; save each" in result.stderr


def test_masks_without_labels(folder):
    (folder / "photos" / "e.jpg").unlink()
    summary = run(folder, masks="masks").summary
    assert "classes" not in summary
    assert [item["image"] for item in summary["skipped"]] == ["sub/c"]
    with pytest.raises(StclError, match=r"photos: holds no mask .*; its files are JPEGs, which blur class indices"):
        run(folder, masks="photos", classes="masks/classes.txt")


def test_only_broken_photos(folder):
    for path in (folder / "photos").rglob("*.jpg"):
        path.write_bytes(b"no photo")
    summary = run(folder).summary
    assert (summary["photos"], summary["unreadable"], summary["sizes"]) == (5, 5, None)


# ---- on the command line --------------------------------------------------------------------------------------------


def stcl(*arguments, **env):
    return subprocess.run(
        [sys.executable, "-m", "stcl_cli", "check", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"COLUMNS": "200", "OMP_NUM_THREADS": "1"} | env,
    )


def test_a_table_for_people_and_json_for_programs(folder):
    result = stcl(folder / "photos", "--labels", folder / "labels.csv", "--masks", folder / "masks", "--json")
    assert result.returncode == 3
    assert json.loads(result.stdout)["classes"] == {"cat": 2, "dog": 2}
    assert "with labels  4 (read as csv)" in result.stderr
    assert "1 mask is all background (0) or ignored (255): b" in result.stderr
    assert "would be skipped: d: no label in" in result.stderr


def test_nothing_on_stdout_without_json_and_0_when_all_is_well(tmp_path):
    shows = label_files.several()
    label_files.draw(tmp_path / "images", shows)
    result = stcl(tmp_path / "images", "--labels", label_files.csv_pairs(tmp_path, shows))
    assert (result.returncode, result.stdout) == (0, "")


def class_table(images, labels, *options):
    """The bytes of the class table that `stcl check --json` prints."""
    result = CliRunner().invoke(main, ["check", str(images), "--labels", str(labels), "--json", *map(str, options)])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["labelled"] == 40
    return re.search(rb'"classes": (\{.*?\})', result.stdout_bytes)[1]


@pytest.mark.parametrize("table", [label_files.single, label_files.several])
def test_40_photos_in_every_format_give_the_same_class_table(tmp_path, table):
    shows = table()
    label_files.draw(tmp_path / "images", shows)
    tables = {}
    for number, (name, (write, _, tables_it_holds)) in enumerate(label_files.WRITERS.items()):
        if table in tables_it_holds:
            root = tmp_path / str(number)
            root.mkdir()
            (root / "images").symlink_to(tmp_path / "images")
            tables[name] = class_table(root / "images", write(root, shows))
    counts = {label: sum(label in labels for labels in shows.values()) for label in label_files.CLASSES}
    assert len(tables) == {label_files.single: 25, label_files.several: 23}[table]
    assert set(tables.values()) == {to_json(counts).encode()}, tables


def test_voc_with_image_sets_gives_the_same_class_table(tmp_path):
    """Of 80 photos, ImageSets/Main/train.txt names the 40."""
    shows = label_files.several()
    others = {f"other/{name}": list(label_files.CLASSES) for name in shows}
    label_files.draw(tmp_path / "images", shows | others)
    annotations = label_files.voc(tmp_path, shows | others)
    train = label_files.voc_image_sets(tmp_path, shows) / "train.txt"
    expected = class_table(tmp_path / "images", label_files.csv_pairs(tmp_path, shows), "--list", train)
    assert class_table(tmp_path / "images", annotations, "--list", train) == expected


def test_tables_fit_80_columns_whatever_the_names(folder):
    long = "[red]" + "Wort" * 30
    (folder / "labels.csv").write_text(f"a,cat\nb,dog\nsub/c,{long}\nd,[/]\ne,日本語\n")
    (folder / "masks" / "classes.txt").write_text(f"cat\n{long}\n")
    result = CliRunner(env={"COLUMNS": "200"}).invoke(
        main,
        ["check", str(folder / "photos"), "--labels", str(folder / "labels.csv"), "--masks", str(folder / "masks")],
    )
    table = [line for line in result.stderr.splitlines() if line[:1] in "┃│┏┡└"]
    assert len(table) > 8
    assert max(map(len, table)) <= 80
    cells = "".join(line.split("│")[1].strip() for line in table if line.startswith("│"))
    assert "[red]Wort" in cells
    assert cells.count("Wort") == 30
    assert "[/]" in cells


def test_help_names_every_option():
    text = CliRunner().invoke(main, ["check", "--help"]).output
    for option in ("IMAGES", "--labels ", "--labels-format", "--masks", "--list", "--classes", "--json"):
        assert option in text, option


def test_many_skipped_are_named_in_json_only(folder):
    (folder / "labels.csv").write_text("a,cat\n" + "".join(f"none{n},dog\n" for n in range(30)))
    result = stcl(folder / "photos", "--labels", folder / "labels.csv", "--json")
    assert result.stderr.count("would be skipped") == 11
    assert "would be skipped: 34 in all; --json or --verbose names each" in result.stderr
    assert len(json.loads(result.stdout)["skipped"]) == 34


def test_verbose_names_all_that_would_be_skipped(folder):
    (folder / "labels.csv").write_text("a,cat\n" + "".join(f"none{n},dog\n" for n in range(30)))
    result = stcl(folder / "photos", "--labels", folder / "labels.csv", "--verbose")
    assert "would be skipped: none29: " in result.stderr
    assert "in all" not in result.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"labels_format": "coco"}, "--labels-format coco: give the labels too, with --labels"),
        ({"classes": "names.txt"}, r"--classes names\.txt: give what has those classes too, with --labels or --masks"),
    ],
)
def test_an_option_that_nothing_is_given_for(settings, words):
    with pytest.raises(StclError, match=words):
        check.run(CheckConfig(images="photos", **settings))


def test_starts_without_torch():
    code = "import sys, stcl_cli.stages.check; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


# ---- before training -------------------------------------------------------------------------------------------------


class Stop(Exception):
    """Raised where a network would be built: what a training says before that is what it checked."""


@pytest.fixture
def stderr_of(monkeypatch, capsys):
    def stop(*_):
        raise Stop

    def stderr_of(stage, config):
        for builder in ("build_stcl", "build_segmenter", "default_encoder"):
            if hasattr(stage, builder):
                monkeypatch.setattr(stage, builder, stop)
        with pytest.raises(Stop):
            stage.run(config)
        return capsys.readouterr().err

    return stderr_of


def test_train_says_the_essentials_first(folder, stderr_of):
    from stcl_cli.stages import train

    (folder / "labels.csv").write_text("a,cat;dog\nb,dog\nz,dog\n")
    config = TrainConfig(
        images=str(folder / "photos"), labels=str(folder / "labels.csv"), output=str(folder / "run"), device="cpu"
    )
    said = stderr_of(train, config)
    assert "2 photos with labels (csv), 3 without, 1 label without a photo" in said
    assert "1 (cat) to 2 (dog) photos a class" in said
    assert "every photo shows dog" in said
    assert not (folder / "run").exists()


def test_segtrain_looks_at_some_masks_first(folder, stderr_of):
    from stcl_cli.stages import segtrain

    config = SegtrainConfig(
        images=str(folder / "photos"), masks=str(folder / "masks"), output=str(folder / "seg"), device="cpu"
    )
    assert "2 of 3 masks looked at: 89.3% of the pixels background, 3.6% ignored (255), 1 of 2 classes" in stderr_of(
        segtrain, config
    )
