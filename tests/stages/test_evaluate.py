from dataclasses import replace

import numpy as np
import pytest

from stcl_cli.config import EvalConfig
from stcl_cli.errors import StclError
from stcl_cli.formats.masks import write_mask
from stcl_cli.stages import evaluate


def test_eval_counts_ignored_predictions_as_errors_unless_told(tmp_path):
    truth = np.array([[0, 0, 1, 1], [2, 2, 255, 1]], np.uint8)
    predicted = np.array([[0, 255, 1, 1], [2, 1, 0, 1]], np.uint8)
    write_mask(tmp_path / "truth" / "x.png", truth)
    write_mask(tmp_path / "pred" / "x.png", predicted)
    (tmp_path / "truth" / "classes.txt").write_text("background\ncat\ndog\n")
    config = EvalConfig(predictions=str(tmp_path / "pred"), truth=str(tmp_path / "truth"))
    summary = evaluate.run(config).summary
    assert summary["per_class"] == pytest.approx({"background": 1 / 2, "cat": 3 / 4, "dog": 1 / 2})
    assert summary["miou"] == pytest.approx(7 / 12)
    assert (summary["images"], summary["ignored_predictions"]) == (1, 1)
    forgiving = EvalConfig(predictions=config.predictions, truth=config.truth, ignore_predictions=True)
    assert evaluate.run(forgiving).summary["per_class"]["background"] == 1


@pytest.mark.parametrize("forgiving", [False, True])
def test_a_value_that_is_no_class_is_an_error_in_any_case(tmp_path, capsys, forgiving):
    write_mask(tmp_path / "truth" / "x.png", np.array([[0, 0, 1, 1, 2, 2, 255]], np.uint8))
    write_mask(tmp_path / "pred" / "x.png", np.array([[0, 0, 1, 9, 2, 9, 9]], np.uint8))
    (tmp_path / "truth" / "classes.txt").write_text("background\ncat\ndog\n")
    config = EvalConfig(predictions=str(tmp_path / "pred"), truth=str(tmp_path / "truth"), ignore_predictions=forgiving)
    summary = evaluate.run(config).summary
    assert summary["miou"] == pytest.approx(2 / 3)
    assert (summary["ignored_predictions"], summary["unknown_predictions"]) == (0, 2)
    assert "a value that is no class: 2" in capsys.readouterr().err


def test_a_value_beyond_the_predictions_own_classes_is_no_class_of_the_truth(tmp_path):
    mask = np.array([[0, 1, 2, 2]], np.uint8)
    for folder, names in (("truth", "cat\ndog\n"), ("pred", "cat\n")):
        write_mask(tmp_path / folder / "x.png", mask)
        (tmp_path / folder / "classes.txt").write_text(names)
    summary = evaluate.run(EvalConfig(predictions=str(tmp_path / "pred"), truth=str(tmp_path / "truth"))).summary
    assert summary["per_class"] == {"background": 1, "cat": 1, "dog": 0}
    assert summary["unknown_predictions"] == 2


def test_photos_among_the_true_masks_are_none(tmp_path):
    for folder in ("truth", "pred"):
        for name in ("a", "b"):
            write_mask(tmp_path / folder / f"{name}.png", np.array([[0, 1]], np.uint8))
    (tmp_path / "truth" / "a.jpg").write_bytes(b"a photo")
    (tmp_path / "pred" / "classes.txt").write_text("cat\n")
    (tmp_path / "list.txt").write_text("a\n")
    config = {"predictions": str(tmp_path / "pred"), "truth": str(tmp_path / "truth")}
    assert evaluate.run(EvalConfig(**config)).summary["images"] == 2
    assert evaluate.run(EvalConfig(**config, list=str(tmp_path / "list.txt"))).summary["images"] == 1


def test_truth_of_0_and_255_measures_nothing_but_background_and_says_so(tmp_path, capsys):
    write_mask(tmp_path / "truth" / "x.png", np.array([[0, 0, 255, 255]], np.uint8))
    write_mask(tmp_path / "pred" / "x.png", np.array([[0, 0, 1, 0]], np.uint8))
    (tmp_path / "pred" / "classes.txt").write_text("cat\n")
    evaluate.run(EvalConfig(predictions=str(tmp_path / "pred"), truth=str(tmp_path / "truth")))
    assert "truth: no true mask holds a class, so only background is measured" in capsys.readouterr().err


def test_true_masks_without_a_prediction_are_counted(tmp_path, capsys):
    for name in ("x", "sub/y", "z"):
        write_mask(tmp_path / "truth" / f"{name}.png", np.array([[0, 1]], np.uint8))
    write_mask(tmp_path / "pred" / "x.png", np.array([[0, 1]], np.uint8))
    (tmp_path / "pred" / "classes.txt").write_text("cat\n")
    config = EvalConfig(predictions=str(tmp_path / "pred"), truth=str(tmp_path / "truth"))
    summary = evaluate.run(config).summary
    assert (summary["images"], summary["missing_predictions"]) == (1, 2)
    (tmp_path / "list.txt").write_text("x\nsub/y\n")
    assert evaluate.run(replace(config, list=str(tmp_path / "list.txt"))).skipped == 1
    assert f"skipped sub/y: {tmp_path}/pred/sub/y.png: is not there" in capsys.readouterr().err


def test_truth_of_255_alone_measures_nothing(tmp_path):
    write_mask(tmp_path / "truth" / "x.png", np.full((1, 4), 255, np.uint8))
    write_mask(tmp_path / "pred" / "x.png", np.zeros((1, 4), np.uint8))
    (tmp_path / "pred" / "classes.txt").write_text("cat\n")
    with pytest.raises(StclError, match=r"truth: its true masks are 255, ignored, everywhere; nothing can be measured"):
        evaluate.run(EvalConfig(predictions=str(tmp_path / "pred"), truth=str(tmp_path / "truth")))


def test_eval_compares_classes_by_their_names(tmp_path, capsys):
    write_mask(tmp_path / "truth" / "x.png", np.array([[0, 1, 1, 2], [3, 3, 3, 3]], np.uint8))
    write_mask(tmp_path / "pred" / "x.png", np.array([[0, 3, 3, 0], [1, 1, 1, 0]], np.uint8))
    (tmp_path / "truth" / "classes.txt").write_text("background\ndog\nemu\ncat\n")
    (tmp_path / "pred" / "classes.txt").write_text("background\ncat\ncow\ndog\n")
    config = EvalConfig(predictions=str(tmp_path / "pred"), truth=str(tmp_path / "truth"))
    summary = evaluate.run(config).summary
    assert summary["per_class"] == {"background": 1 / 3, "cat": 3 / 4, "cow": None, "dog": 1.0, "emu": 0.0}
    assert (
        "truth: its classes are in another order, or others; they are compared by their names"
        in capsys.readouterr().err
    )
    names = str(tmp_path / "pred" / "classes.txt")
    both = EvalConfig(predictions=config.predictions, truth=config.truth, classes=names)
    assert evaluate.run(both).summary["per_class"]["dog"] == 0  # --classes names the values of both


def test_eval_without_a_common_name(tmp_path):
    write_mask(tmp_path / "truth" / "x.png", np.zeros((2, 2), np.uint8))
    write_mask(tmp_path / "pred" / "y.png", np.zeros((2, 2), np.uint8))
    with pytest.raises(StclError, match="pred"):
        evaluate.run(EvalConfig(predictions=str(tmp_path / "pred"), truth=str(tmp_path / "truth")))


def test_of_many_that_are_skipped_some_are_named(tmp_path, capsys):
    for number in range(14):
        write_mask(tmp_path / "truth" / f"{number:02}.png", np.ones((2, 2), np.uint8))
        write_mask(tmp_path / "pred" / f"{number:02}.png", np.ones((2, 3 - (number == 0)), np.uint8))
    (tmp_path / "pred" / "classes.txt").write_text("cat\n")
    config = EvalConfig(predictions=str(tmp_path / "pred"), truth=str(tmp_path / "truth"))
    assert evaluate.run(config).skipped == 13
    said = capsys.readouterr().err
    assert said.count("but the true mask is 2 x 2") == 10
    assert "skipped 13 in all; --verbose names each" in said
