import json

import pytest
import torch

from stcl_cli.errors import StclError
from stcl_cli.formats.runs import Failures, read_jsonl
from stcl_cli.training.log import TrainingLog

LOG = "metrics.jsonl"


def open_log(folder, first=0):
    return TrainingLog(folder, Failures(folder), first)


def add(log, value, photos=("a.jpg", "b.jpg"), failures=(), **parts):
    log.add(
        {name: torch.tensor(number) for name, number in {"loss": value, **parts}.items()}, list(photos), list(failures)
    )


def test_a_line_holds_the_means_since_the_last_one(tmp_path):
    log = open_log(tmp_path)
    add(log, 1.0, failures=[("c.jpg", "is empty")])
    add(log, 2.0, memory=0.5)  # a part that comes later: the mean of where it was
    assert log.write(2, 1e-3, {"memory_fill": 0.25}) == "loss 1.500 memory 0.500"
    add(log, 5.0)
    log.write(3, 1e-4, {})
    first, second = read_jsonl(tmp_path / LOG)
    assert first.pop("photos_per_second") > 0
    assert first == {"iteration": 2, "lr": 1e-3, "loss": 1.5, "memory": 0.5, "memory_fill": 0.25}
    assert (second["iteration"], second["loss"]) == (3, 5)
    assert json.loads((tmp_path / "failed.jsonl").read_text()) == {"image": "c.jpg", "reason": "is empty"}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_the_first_iteration_that_is_not_finite_is_named_and_nothing_is_written(tmp_path, bad):
    log = open_log(tmp_path)
    add(log, 1.0)
    add(log, 2.0, ["x\n.jpg"], patch=bad)
    add(log, bad, ["z.jpg"])
    for look in (lambda: log.finite(9), lambda: log.write(9, 1e-3, {})):
        with pytest.raises(StclError, match=rf"at iteration 8 \(loss 2, patch {bad:.3g}\), with the photos x\\n\.jpg;"):
            look()
    assert not (tmp_path / LOG).exists()


def test_what_is_done_in_a_pause_does_not_count_in_the_rate(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    log = open_log(tmp_path)
    now[0] += 2
    with log.paused():
        now[0] += 100
    add(log, 1.0)
    log.write(1, 1e-3, {})
    assert read_jsonl(tmp_path / LOG)[0]["photos_per_second"] == 1  # two photos in two seconds


def test_the_best_is_known_again_when_a_run_goes_on(tmp_path):
    log = open_log(tmp_path)
    mious = [0.2, float("nan"), 0.6, 0.5]
    better = [log.write_measurement(n, {"miou": miou, "skipped": []}) for n, miou in enumerate(mious, 1)]
    assert better == [True, False, True, False]
    assert not open_log(tmp_path, 4).write_measurement(5, {"miou": 0.55, "skipped": []})
    assert open_log(tmp_path, 2).write_measurement(3, {"miou": 0.3, "skipped": [("t.png", "is empty")]})
    # the lines after the second are written anew
    assert [(line["iteration"], line["val_miou"]) for line in read_jsonl(tmp_path / LOG)] == [
        (1, 0.2),
        (2, None),
        (3, 0.3),
    ]
    assert json.loads((tmp_path / "failed.jsonl").read_text()) == {"image": "t.png", "reason": "is empty"}


def test_lines_of_others_are_passed_over(tmp_path):
    lines = '{"iteration": 3}\n{"iteration": "x"}\n{}\n{"iteration": 1, "val_miou": "high"}\n{"iteration": 6}\n'
    (tmp_path / LOG).write_text(lines)
    assert open_log(tmp_path, 5).best_miou == -1
    assert [line["iteration"] for line in read_jsonl(tmp_path / LOG)] == [3, 1]
