import re
import shutil

import numpy as np
import pytest
from report_folders import CLASSES, NAMES, build, truth_of

from stcl_cli.config import ReportConfig
from stcl_cli.errors import StclError
from stcl_cli.formats.classes import write_classes
from stcl_cli.formats.masks import write_mask
from stcl_cli.stages import report


@pytest.fixture
def world(tmp_path):
    return build(tmp_path)


@pytest.fixture
def written(world, monkeypatch):
    """Run the stage; returns what it hands to the page."""
    pages = []
    render = report.render
    monkeypatch.setattr(report, "render", lambda page: pages.append(page) or render(page))

    def run(*folders, **settings):
        folders = tuple(str(world / folder) for folder in folders or ("out",))
        settings = {"output": str(world / "report.html")} | settings
        result = report.run(ReportConfig(folders=folders, **settings))
        return pages[-1], result

    return run


def shown(page):
    return {group.title: [card.name for card in group.cards] for group in page.groups}


def test_the_worst_come_first_where_there_is_truth(written, world):
    page, _ = written(truth=str(world / "truth"), photos=2)
    assert shown(page)["Worst photos"] == [NAMES[0], NAMES[1]]  # masks are the truth but for fewer and fewer columns
    assert sorted(shown(page)["Sampled photos"]) == sorted([NAMES[2], NAMES[3]])
    assert "predictions" in page.groups[0].why
    assert page.columns[1].miou() == pytest.approx(0.64, abs=0.2)
    captions = [picture.caption for picture in page.groups[0].cards[0].pictures]
    assert captions[0] == "photo"
    assert captions[1].startswith("cams: ")
    assert captions[2:4] == ["masks", "masks on the photo"]
    assert captions[4:] == ["predictions", "predictions on the photo", "truth on the photo"]
    assert {key.name for key in page.groups[0].cards[0].legend} == {"background", page.classes[0], "ignored"}


def test_without_truth_the_most_uncertain(written):
    page, _ = written(photos=1)
    assert shown(page)["Most uncertain photos"] == [NAMES[3]]
    assert "CAMs between 0.25 and 0.7" in page.groups[0].why
    assert page.truth is None


def test_predictions_alone_are_sampled(written):
    page, _ = written("out/predictions", photos=3, seed=1)
    assert list(shown(page)) == ["Sampled photos"]
    again, _ = written("out/predictions", photos=3, seed=1)
    assert shown(page) == shown(again)
    others = [shown(written("out/predictions", photos=3, seed=seed)[0]) for seed in range(2, 6)]
    assert any(other != shown(page) for other in others)


def test_trainings_alone(written, world):
    page, result = written("out/run", "out/seg")
    assert (page.columns, page.groups, page.photos, result.skipped) == ([], [], 0, 0)
    html = (world / "report.html").read_text()
    assert "val_miou" in html
    assert "Worst" not in html
    with pytest.raises(StclError, match="--truth: is compared with CAMs or masks"):
        written("out/run", truth=str(world / "truth"))
    with pytest.raises(StclError, match="-o -: a report is a file"):
        written("out/run", output="-")
    with pytest.raises(StclError, match="--images and --list: are for CAMs or masks"):
        written("out/run", images="nowhere")


def test_labels_are_counted_as_training_did(written, world):
    config = world / "out" / "run" / "config.json"
    labels = world / "labels.json"
    labels.write_text('{"a": ["cat"], "sub dir/bär 01": ["cat", "dog"]}')
    for folder in (world / "out").glob("*/classes.txt"):
        folder.write_text("cat\ndog\n")
    config.write_text(config.read_text().replace('"weights"', f'"labels": "{labels}", "weights"'))
    page, _ = written("out/run")
    assert page.labels.tolist() == [2, 1]
    listed = config.read_text()
    config.write_text(re.sub(r'"images": "[^"]*"', '"images": "-"', listed))
    assert written("out/run")[0].labels is None  # and nothing waits for a list on stdin
    config.write_text(listed)
    labels.unlink()
    assert written("out/run")[0].labels is None


def test_a_list_keeps_its_photos(written, world):
    (world / "names.txt").write_text("a\n")
    page, _ = written(list=str(world / "names.txt"))
    assert (page.photos, page.columns[1].seen) == (1, {"a"})


def test_what_cannot_be_read_is_named_and_the_rest_is_shown(written, world, capsys):
    (world / "out" / "masks" / "a.png").write_bytes(b"half")
    (world / "photos" / "sub dir" / "bär 01.png").write_bytes(b"half")
    (world / "truth" / f"{NAMES[2]}.png").write_bytes(b"half")
    page, result = written(truth=str(world / "truth"))
    assert result.skipped == 3
    assert {name for name, _ in page.unreadable} == set(NAMES[:3])
    assert {name for names in shown(page).values() for name in names} == {NAMES[0], *NAMES[2:]}
    assert "stcl: skipped a: " in capsys.readouterr().err
    assert "Could not be read for this report" in (world / "report.html").read_text()


def test_of_many_that_cannot_be_read_some_are_named(written, world, capsys, monkeypatch):
    monkeypatch.setattr("stcl_cli.stages.output.NAMED", 2)
    for name in NAMES[:3]:
        (world / "out" / "masks" / f"{name}.png").write_bytes(b"half")
    _, result = written()
    said = capsys.readouterr().err
    assert (result.skipped, said.count("stcl: skipped ")) == (3, 2 + 1)
    assert "stcl: skipped 3 in all; --verbose names each\n" in said


def test_only_a_report_is_replaced(written, world):
    items = []
    config = ReportConfig(folders=(str(world / "out"),), output=str(world / "report.html"))
    report.run(config, items.append)
    assert (items[0]["output"], items[0]["photos"]) == (world / "report.html", 4)
    before = (world / "report.html").read_bytes()
    written()
    assert (world / "report.html").read_bytes() == before  # the same input, the same page
    (world / "thesis.html").write_bytes(b"<!doctype html>")
    for output, reason in {
        "thesis.html": "is there and is no report of stcl; give another file with -o",
        "photos": "is a folder; name a file",
        "thesis.html/x": r"cannot be written \(Not a directory\)",
    }.items():
        with pytest.raises(StclError, match=reason):
            written(output=str(world / output))
    assert (world / "thesis.html").read_bytes() == b"<!doctype html>"


def test_nothing_in_common(written, world, tmp_path):
    with pytest.raises(StclError, match="holds no true mask for any photo; a mask is named like its photo"):
        written(truth=str(world / "out" / "run"))
    shutil.copytree(world / "photos" / "sub dir", world / "others")
    with pytest.raises(StclError, match=r"cams: holds no file for any photo in .*others; give --images or --list"):
        written(images=str(world / "others"))


def test_a_truth_with_its_classes_in_another_order_gives_the_same_page(written, world):
    page, _ = written(truth=str(world / "truth"))
    values = np.arange(256, dtype=np.uint8)
    values[:3] = 0, 3, 1  # 2 is a class that nobody predicts
    for index, name in enumerate(NAMES):
        write_mask(world / "other truth" / f"{name}.png", values[truth_of(index)])
    write_classes(world / "other truth" / "classes.txt", (CLASSES[1], "emu", CLASSES[0]))
    other, _ = written(truth=str(world / "other truth"))
    assert other.classes == (*page.classes, "emu")
    assert [column.miou() for column in other.columns] == [column.miou() for column in page.columns]
    assert [group.cards for group in other.groups] == [group.cards for group in page.groups]


def test_a_truth_of_other_classes(written, world):
    write_mask(world / "truth" / "a.png", np.full((24, 32), 9, np.uint8))
    with pytest.raises(StclError, match=re.escape("a.png: holds class 9, but 2 are known")):
        written(truth=str(world / "truth"))
    assert not (world / "report.html").exists()


def test_a_truth_without_a_class_is_told(written, world, capsys):
    for name in NAMES:
        write_mask(world / "blank" / f"{name}.png", np.zeros((24, 32), np.uint8))
    written(truth=str(world / "blank"))
    assert "blank: no true mask holds a class, so only background is measured" in capsys.readouterr().err
