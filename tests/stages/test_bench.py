import json
from dataclasses import replace
from pathlib import Path

import pytest

from stcl_cli.config import BenchConfig
from stcl_cli.errors import StclError
from stcl_cli.runtime.pipeline import BATCH_PIXELS
from stcl_cli.stages import bench

TINY = BenchConfig(
    backbone="stcl_tiny",
    crop_size=32,
    batch_size=2,
    photos=8,
    device="cpu",
    amp="off",
    workers=2,
    w_class=0.5,
    w_seg=0.1,
)


@pytest.fixture(autouse=True)
def rate(monkeypatch):
    """The machine is measured twice for each stage; the better one counts."""
    rates = iter([3.0, 4.0] * 5)
    monkeypatch.setattr(bench, "matrix_rate", lambda runtime: next(rates))
    monkeypatch.setitem(BATCH_PIXELS, "cpu", 2 * 32**2)


def measure(config):
    found = []
    result = bench.run(config, found.append)
    assert (result.skipped, result.summary) == (0, None)
    return json.loads(json.dumps(found))


def test_a_line_for_each_stage_with_what_is_promised(capfd):
    found = measure(TINY)
    assert [line["what"] for line in found] == ["train", "cam", "refine", "segtrain", "predict"]
    for line in found:
        training = line["what"] in ("train", "segtrain")
        assert list(line) == [
            *("what", "photos_per_second", "efficiency", "gflop_per_photo", "matrix_rate_gflops"),
            *("peak_memory_mb", "loader_ms", "backbone", "crop_size", "batch_size", "device", "amp"),
        ]
        assert line["photos_per_second"] > 0
        assert line["loader_ms"] > 0
        assert line["peak_memory_mb"] > 50
        assert line["matrix_rate_gflops"] == 4.0
        assert line["batch_size"] == (2 if training else None)
        assert (line["backbone"], line["crop_size"], line["amp"]) == ("stcl_tiny", 32, "off")
        assert line["device"].startswith("cpu, ")
        if line["what"] == "refine":
            assert line["efficiency"] is line["gflop_per_photo"] is None
        else:
            efficiency = line["gflop_per_photo"] * line["photos_per_second"] / 4.0
            assert line["efficiency"] == pytest.approx(efficiency, rel=0.2, abs=0.001)
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split(":")[0] for line in err.splitlines()] == [line["what"] for line in found]


def test_options_reach_the_training_and_every_loss_is_on_from_the_start(monkeypatch):
    parts = []
    fit = bench.train.fit

    def watched(run):
        parts.append((run.config, set(run.step(next(iter(run.batches(0, 1))), 0.0)[1])))
        return fit(run)

    monkeypatch.setattr(bench.train, "fit", watched)
    (line,) = measure(replace(TINY, what=("train",), accumulate=2, checkpointing=True, amp="bf16"))
    assert line["amp"] == "bf16"
    ((config, names),) = parts
    assert (config.accumulate, config.checkpointing, config.amp, config.batch_size) == (2, True, "bf16", 2)
    assert config.iterations == 5  # four of the eight photos, and one to warm up
    assert names == {"cls", "cls_aux", "patch", "class", "memory", "seg", "reg"}


@pytest.mark.parametrize("what", ["cam", "predict"])
def test_the_network_sees_the_crop_that_is_counted(monkeypatch, what):
    stage, seen = getattr(bench, what), []
    compute = stage.Network.compute

    def watched(self, work, inputs, paths):
        seen.extend((one[0] if isinstance(one, tuple) else one).shape[:2] for one in inputs)
        return compute(self, work, inputs, paths)

    monkeypatch.setattr(stage.Network, "compute", watched)
    measure(replace(TINY, what=(what,), crop_size=544))  # more than --max-side of a training that is not told
    assert set(seen) == {(544, 544)}


def test_refining_is_measured_beyond_what_all_cores_begin_with(monkeypatch):
    monkeypatch.setattr(bench, "cores", lambda: 12)
    made = []
    monkeypatch.setattr(bench, "write_textures", lambda folder, count, *rest: made.append(count))
    for photos in (None, 7, 50):
        bench.Bench(replace(TINY, photos=photos, workers=None, crop_size=448), bench.make_runtime("cpu"), Path())
    assert made == [48, 48, 50]


def test_what_was_skipped_is_no_measurement(monkeypatch):
    monkeypatch.setattr(bench.predict, "run", lambda config, done: bench.Result(skipped=3))
    with pytest.raises(StclError, match="3 photos were skipped; take a smaller --crop-size"):
        measure(replace(TINY, what=("predict",)))


def test_a_line_of_few_iterations_weighs_as_much_as_it_has(tmp_path):
    lines = [(1, 1.0), (4, 10.0), (7, 10.0), (8, 2.0)]
    records = [{"iteration": iteration, "photos_per_second": rate} for iteration, rate in lines]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert bench._rate_of_training(tmp_path) == pytest.approx(7 / (6 / 10 + 1 / 2))
