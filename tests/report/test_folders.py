import shutil

import numpy as np
import pytest
from report_folders import CLASSES

from stcl_cli.errors import StclError
from stcl_cli.formats.images import write_jpeg
from stcl_cli.formats.runs import write_config
from stcl_cli.report.folders import find_outputs, images_of


def test_a_folder_of_outputs_and_single_ones(world):
    whole = find_outputs([world / "out"])
    assert [(output.title, output.command) for output in whole] == [
        ("run", "train"), ("seg", "segtrain"), ("cams", "cam"), ("masks", "refine"), ("predictions", "predict"),
    ]  # fmt: skip
    assert whole == find_outputs([world / "out" / "seg", world / "out", world / "out" / "run"])  # each once
    (masks,) = find_outputs([world / "out" / "masks"])
    assert (masks.suffix, masks.classes, masks.metrics) == (".png", CLASSES, [])
    assert len(whole[0].metrics) == 11
    assert whole[2].failures == [("<i>gone</i>", "is <b>empty</b>")]


def test_a_folder_that_stcl_did_not_make_may_hold_some(world, tmp_path):
    shutil.copytree(world / "out", tmp_path / "out")
    (tmp_path / "out" / "config.json").unlink()
    assert len(find_outputs([tmp_path / "out"])) == 5


def test_lines_that_tell_of_no_iteration_are_passed_over(world, tmp_path):
    shutil.copytree(world / "out" / "run", tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text(
        '{"iteration": 1, "loss": 2}\n{"loss": 3}\n{"iteration": "x"}\n{"iteration": -1}\n{"iteration": 1'
        + "0" * 400
        + "}\n"
    )
    assert find_outputs([tmp_path / "run"])[0].metrics == [{"iteration": 1, "loss": 2}]


def test_two_of_one_name_go_by_their_paths(world, tmp_path):
    shutil.copytree(world / "out" / "masks", tmp_path / "masks")
    one, other = find_outputs([world / "out" / "masks", tmp_path / "masks"])
    assert (one.title, other.title) == (str(world / "out" / "masks"), str(tmp_path / "masks"))


def test_overlays_are_no_masks(world, tmp_path):
    shutil.copytree(world / "out", tmp_path / "out")
    (tmp_path / "out" / "look").mkdir()
    write_config(tmp_path / "out" / "look", "refine", {})
    write_jpeg(tmp_path / "out" / "look" / "a.jpg", np.zeros((2, 2, 3), np.uint8))
    assert len(find_outputs([tmp_path / "out"])) == 5
    with pytest.raises(StclError, match="look: was made by stcl refine and holds nothing to report on"):
        find_outputs([tmp_path / "out" / "look"])


def test_what_is_no_output_folder(world, tmp_path):
    with pytest.raises(StclError, match="gone: is not there; give an output folder"):
        find_outputs([tmp_path / "gone"])
    with pytest.raises(StclError, match=r"photos: has no config\.json; give an output folder"):
        find_outputs([world / "photos"])
    write_config(tmp_path, "export", {})
    with pytest.raises(StclError, match="was made by stcl export and holds nothing to report on; give folders of"):
        find_outputs([tmp_path])


def test_different_classes(world, tmp_path):
    shutil.copytree(world / "out" / "masks", tmp_path / "masks")
    (tmp_path / "masks" / "classes.txt").write_text("cat\n")
    with pytest.raises(StclError, match="are about different classes; make a report of each"):
        find_outputs([world / "out", tmp_path / "masks"])


def test_where_the_photos_are(world, tmp_path):
    outputs = find_outputs([world / "out"])
    assert images_of(outputs) == str(world / "photos")
    elsewhere = [output._replace(options={"images": str(tmp_path / "moved")}) for output in outputs]
    with pytest.raises(StclError, match=r"config\.json: its photos, .*moved, are not there; give --images"):
        images_of(elsewhere)
    assert images_of([outputs[0], *elsewhere[1:]]) == str(world / "photos")
    with pytest.raises(StclError, match="does not say where its photos are; give --images"):
        images_of([output._replace(options={"images": "-"}) for output in outputs])
