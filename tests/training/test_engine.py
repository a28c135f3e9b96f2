import json
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from ranks import run_ranks
from safetensors.torch import load_file
from torch import nn

from stcl_cli.config import SegtrainConfig
from stcl_cli.errors import StclError
from stcl_cli.formats.checkpoints import open_checkpoint, save_checkpoint
from stcl_cli.formats.runs import read_failures, read_jsonl
from stcl_cli.runtime.device import make_runtime, seed_everything
from stcl_cli.runtime.distributed import joined
from stcl_cli.training import engine
from stcl_cli.training.engine import Run, check_options, fit, learning_rate_factor

LOG = "metrics.jsonl"


class Stop(Exception):
    """The power fails."""


def batches(first, last, *, stop_at=None):
    for iteration in range(first, last):
        if iteration == stop_at:
            raise Stop
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(iteration))
        names = [f"{iteration}-{number}" for number in range(4)]
        yield {"x": x, "names": names, "failures": [("b.jpg", "is empty")] if iteration == 1 else []}


def make_run(folder, *, batches=batches, bad_from=None, validate=None, finish=None, dropout=0.5, norm=True, **settings):
    """A small network that meets chance (dropout) and keeps statistics (batch norm)."""
    settings = {"iterations": 12, "save_every": 5, "log_every": 3, "lr": 0.01, "warmup": 0.25} | settings
    config = SegtrainConfig(images="", masks="", output="", seed=4, **settings)
    seed_everything(0)
    norm = nn.BatchNorm1d(8) if norm else nn.Identity()
    model = nn.Sequential(nn.Linear(3, 8, bias=False), norm, nn.Dropout(dropout), nn.Linear(8, 1))

    def step(batch, progress):
        out = model(batch["x"])
        if bad_from is not None and progress * config.iterations >= bad_from:
            out = out / 0
        loss = (out - 1).square().mean()
        return loss, {"fit": loss} if progress < 0.5 else {"fit": loss, "late": loss + progress}

    return Run(
        stage="segtrain",
        folder=folder,
        config=config,
        classes=("cat",),
        photos={"a": [], "b.jpg": []},
        model=model,
        groups=[
            {"params": list(model[0].parameters()), "lr": 0.01},
            {"params": list(model[1:].parameters()), "lr": 0.1},
        ],
        step=step,
        batches=batches,
        runtime=make_runtime("cpu"),
        validate=validate and partial(validate, model),
        finish=finish and partial(finish, model),
    )


def weights_and_log(run):
    records = [{k: v for k, v in record.items() if k != "photos_per_second"} for record in read_jsonl(run.folder / LOG)]
    return {name: value.tolist() for name, value in run.model.state_dict().items()}, records


def measure(model, tell):
    return {"miou": model.eval()(torch.ones(1, 3)).item(), "skipped": [("truth.png", "is empty")]}


@pytest.mark.parametrize("stop_at", [2, 6, 11])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, stop_at):
    whole, stopped = make_run(tmp_path / "a", validate=measure), tmp_path / "b"
    fit(whole)
    with pytest.raises(Stop):
        fit(make_run(stopped, validate=measure, batches=partial(batches, stop_at=stop_at)))
    resumed = make_run(stopped, validate=measure)
    fit(resumed)
    assert weights_and_log(resumed) == weights_and_log(whole)
    for name in ("best", "last"):
        a, b = (open_checkpoint(f / "checkpoints" / f"{name}.safetensors", "segtrain") for f in (whole.folder, stopped))
        assert a.info.iteration == b.info.iteration


def test_a_finished_run_stays_as_it_is(tmp_path):
    fit(make_run(tmp_path))
    before = (tmp_path / LOG).read_text()
    again = make_run(tmp_path)
    assert fit(again) == ({}, 1)
    assert (tmp_path / LOG).read_text() == before


def test_a_short_training_has_a_checkpoint_soon_and_says_where_it_goes_on(tmp_path, capsys):
    with pytest.raises(Stop):
        fit(make_run(tmp_path, iterations=40, save_every=None, batches=partial(batches, stop_at=11)))
    assert open_checkpoint(tmp_path, "segtrain").info.iteration == 8
    fit(make_run(tmp_path, iterations=40, save_every=None))
    assert "goes on at iteration 8 of 40\n" in capsys.readouterr().err
    fit(replace(make_run(tmp_path, iterations=40), photos={"a": [], "b.jpg": [], "c": []}))
    new = "new since then and not learned from: 1 (--overwrite begins anew)"
    assert capsys.readouterr().err == f"{tmp_path}: trained to its end before, on 2 photos; {new}\n"


def test_the_log_holds_means_since_its_last_line(tmp_path):
    run = make_run(tmp_path, iterations=8, save_every=100, log_every=4)
    losses = []
    step = run.step

    def watched(batch, progress):
        loss, parts = step(batch, progress)
        losses.append(loss.item())
        return loss, parts

    run.step = watched
    fit(run)
    first, second = read_jsonl(tmp_path / LOG)
    assert (first["iteration"], second["iteration"]) == (4, 8)
    assert first["loss"] == first["fit"] == pytest.approx(sum(losses[:4]) / 4, rel=1e-4)
    assert second["loss"] == pytest.approx(sum(losses[4:]) / 4, rel=1e-4)
    assert "late" not in first
    assert second["late"] > second["loss"]
    assert first["grad_norm"] > 0
    assert first["photos_per_second"] > 0
    assert json.loads((tmp_path / "failed.jsonl").read_text()) == {"image": "b.jpg", "reason": "is empty"}


@pytest.mark.parametrize("log_every", [1, 3, 100])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, log_every):
    run = make_run(tmp_path, bad_from=7, log_every=log_every)
    with pytest.raises(StclError) as caught:
        fit(run)
    assert str(caught.value) == (
        "the loss or its gradient is no longer finite at iteration 8 (loss inf, fit inf, late inf, grad_norm nan), "
        "with the photos 7-0, 7-1, 7-2, 7-3; the last checkpoint is kept; "
        "start anew with a lower --lr, by --overwrite or another -o"
    )
    checkpoint = open_checkpoint(tmp_path / "checkpoints" / "last.safetensors", "segtrain")
    assert checkpoint.info.iteration == 5
    checkpoint.load_model(run.model)
    assert all(torch.isfinite(value).all() for value in run.model.state_dict().values())


def test_a_network_that_is_no_longer_finite_is_not_measured(tmp_path):
    settings = {"log_every": 100, "val_every": 2, "validate": lambda model, tell: {"miou": 0.3, "skipped": []}}
    run = make_run(tmp_path, bad_from=1, **settings)
    with pytest.raises(StclError, match="no longer finite at iteration 2"):
        fit(run)
    assert not (tmp_path / "checkpoints").exists()


def half(rank):
    """`batches` of which each of two ranks takes its half."""

    def some(first, last):
        for batch in batches(first, last):
            mine = slice(2 * rank, 2 * rank + 2)
            yield batch | {"x": batch["x"][mine], "names": batch["names"][mine]}

    return some


def test_two_ranks_are_one_process_with_both_batches(tmp_path):
    whole = make_run(tmp_path / "whole", validate=measure, dropout=0)
    fit(whole)
    expected, expected_log = weights_and_log(whole)

    def train(rank):
        with joined(torch.device("cpu")):
            run = make_run(tmp_path / "both", validate=measure, dropout=0, batches=half(rank))
            skipped = fit(run)[1]
        return weights_and_log(run)[0], skipped

    results = run_ranks(2, train)
    assert [skipped for _, skipped in results] == [2, 0]
    for weights, _ in results:
        for name, value in weights.items():
            assert torch.allclose(torch.tensor(value), torch.tensor(expected[name]), atol=1e-5), name
            assert value == results[0][0][name]
    failed = tmp_path / "both" / "failed.jsonl"
    assert len(read_jsonl(failed)) == 2
    assert read_failures(failed) == {"b.jpg": "is empty", "truth.png": "is empty"}
    log = read_jsonl(tmp_path / "both" / LOG)
    assert len(log) == len(expected_log)
    for line, other in zip(log, expected_log, strict=True):
        assert other == pytest.approx({k: v for k, v in line.items() if k != "photos_per_second"}, abs=1e-5)
    checkpoint = open_checkpoint(tmp_path / "both", "segtrain")
    assert checkpoint.info.ranks == 2
    with pytest.raises(StclError, match=r"last.safetensors: was trained by 2 processes at once, not by 1; start as"):
        fit(make_run(tmp_path / "both", validate=measure, dropout=0))


def test_two_ranks_stop_together_and_name_the_photos_of_both(tmp_path):
    def train(rank):
        with joined(torch.device("cpu")):
            run = make_run(tmp_path, batches=half(rank), bad_from=3 if rank == 1 else None)
            fit(run)

    for error in run_ranks(2, train):
        assert isinstance(error, StclError)
        assert "at iteration 4 (loss inf, fit inf" in str(error)
        assert "with the photos 3-0, 3-1, 3-2, 3-3;" in str(error)


def test_ranks_with_disks_of_their_own_do_not_go_on_from_different_checkpoints(tmp_path):
    def train(rank):
        with joined(torch.device("cpu")):
            run = make_run(tmp_path / str(rank), batches=half(rank), dropout=0)
            fit(run)

    assert run_ranks(2, train) == [None, None]
    for error in run_ranks(2, train):
        assert isinstance(error, StclError)
        assert "the 2 processes do not see the same output folder; give them" in str(error)


def test_the_rate_is_that_of_training(tmp_path, monkeypatch):
    clock, late = time.perf_counter, [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + late[0])

    def slow(model, tell):
        late[0] += 1000
        return {"miou": 0.5, "skipped": []}

    def slow_to_write(*arguments):
        late[0] += 1000
        return save_checkpoint(*arguments)

    monkeypatch.setattr(engine, "save_checkpoint", slow_to_write)
    finish = lambda model, tell: slow(model, tell)["skipped"]  # noqa: E731
    fit(make_run(tmp_path, save_every=5, val_every=4, validate=slow, finish=finish))
    rates = [record["photos_per_second"] for record in read_jsonl(tmp_path / LOG) if "photos_per_second" in record]
    assert len(rates) == 6
    assert min(rates) > 12 / 1000  # of a line's 12 photos


def test_a_run_is_finished_once_before_its_last_measurement_and_checkpoint(tmp_path):
    calls = []

    def finish(model, tell):
        calls.append("finish")
        torch.nn.init.constant_(model[0].weight, 7)
        return [("c.jpg", "is broken")]

    def measure(model, tell):
        calls.append("measure")
        return {"miou": 0.5, "skipped": []}

    run = make_run(tmp_path, val_every=6, validate=measure, finish=finish)
    assert fit(run)[1] == 2
    assert read_jsonl(tmp_path / "failed.jsonl")[1:] == [{"image": "c.jpg", "reason": "is broken"}]
    assert calls == ["measure", "finish", "measure"]
    assert (load_file(tmp_path / "checkpoints" / "last.safetensors")["model.0.weight"] == 7).all()
    fit(make_run(tmp_path, val_every=6, validate=measure, finish=finish))  # it has been, and is not again
    assert calls == ["measure", "finish", "measure"]


def test_best_is_the_checkpoint_of_the_highest_miou(tmp_path):
    mious = iter([0.2, float("nan"), 0.6, 0.5])
    run = make_run(
        tmp_path, val_every=3, validate=lambda model, tell: {"miou": next(mious), "background": 0.4, "skipped": []}
    )
    assert fit(run)[0]["miou"] == 0.5
    assert open_checkpoint(tmp_path, "segtrain").info.iteration == 9
    measured = [record for record in read_jsonl(tmp_path / LOG) if "val_miou" in record]
    assert [record["val_miou"] for record in measured] == [0.2, None, 0.6, 0.5]
    assert measured[0]["val_background"] == 0.4
    assert run.model.training
    fit(make_run(tmp_path, val_every=3))  # and the log can be read again


def test_what_is_skipped_is_what_is_so_now_and_what_failed_before_the_checkpoint(tmp_path):
    with pytest.raises(Stop):
        fit(replace(make_run(tmp_path, batches=partial(batches, stop_at=4)), skipped=[("zz", "no photo")]))
    assert read_failures(tmp_path / "failed.jsonl") == {"zz": "no photo", "b.jpg": "is empty"}
    with pytest.raises(Stop):  # without a checkpoint all photos are new
        fit(make_run(tmp_path, batches=partial(batches, stop_at=1)))
    assert not (tmp_path / "failed.jsonl").exists()
    with pytest.raises(Stop):
        fit(make_run(tmp_path, batches=partial(batches, stop_at=8)))
    refused = replace(make_run(tmp_path), photos={"a": []}, skipped=[("b.jpg", "no photo"), ("c", "no photo")])
    with pytest.raises(StclError, match="begun with other photos"):
        fit(refused)
    assert fit(replace(make_run(tmp_path), skipped=[("d", "no photo")])) == ({}, 2)
    assert read_failures(tmp_path / "failed.jsonl") == {"b.jpg": "is empty", "d": "no photo"}
    assert fit(make_run(tmp_path)) == ({}, 1)


def test_learning_rate_rises_then_falls():
    factors = [learning_rate_factor(i, 1000, 0.1) for i in range(1000)]
    assert factors[0] == 1e-6
    assert factors[50] == pytest.approx(0.5, abs=1e-5)
    assert factors[:100] == sorted(factors[:100])
    assert factors[100:] == [(1 - i / 1000) ** 0.9 for i in range(100, 1000)]
    assert learning_rate_factor(0, 1000, 0) == 1


def test_groups_keep_their_ratio(tmp_path):
    run = make_run(tmp_path, log_every=1, iterations=4, warmup=0)
    fit(run)
    assert [r["lr"] for r in read_jsonl(tmp_path / LOG)] == [0.01 * learning_rate_factor(i, 4, 0) for i in range(4)]
    assert run.groups[1]["lr"] == pytest.approx(10 * run.groups[0]["lr"])


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_is_the_whole_batch_where_photos_do_not_meet(tmp_path, parts):
    """Without dropout and batch norm each photo of this loss is on its own."""
    whole = make_run(tmp_path / "whole", dropout=0, norm=False)
    run = make_run(tmp_path / "parts", dropout=0, norm=False, batch_size=4, accumulate=parts)
    sizes, step = [], run.step

    def watched(batch, progress):
        sizes.append(len(batch["x"]))
        return step(batch, progress)

    run.step = watched
    fit(whole)
    fit(run)
    assert sizes == [4 // parts] * parts * 12
    (expected, expected_log), (weights, log) = weights_and_log(whole), weights_and_log(run)
    for name, value in weights.items():
        assert torch.allclose(torch.tensor(value), torch.tensor(expected[name]), atol=1e-6), name
    assert len(log) == len(expected_log)
    for line, other in zip(log, expected_log, strict=True):
        assert line == pytest.approx(other, rel=1e-4)


def test_parts_are_equal():
    config = SegtrainConfig(images="", masks="", output="", batch_size=6, accumulate=3)
    check_options(config)
    with pytest.raises(StclError, match=r"^--accumulate 4: must divide --batch-size 6$"):
        check_options(replace(config, accumulate=4))


def test_a_range_has_the_smaller_number_first():
    config = SegtrainConfig(images="", masks="", output="", rescale=(1.0, 1.0))
    check_options(config)
    with pytest.raises(StclError, match=r"^--rescale 2 0.5: give the smaller one first$"):
        check_options(replace(config, rescale=(2.0, 0.5)))


def test_gradients_are_clipped(tmp_path, monkeypatch):
    run = make_run(tmp_path, iterations=3, log_every=1, dropout=0.0)
    step, norms, update = run.step, [], torch.optim.AdamW.step

    def steep(batch, progress):
        loss, parts = step(batch, progress)
        return 1e4 * loss, parts

    def watched(optimizer, *given, **options):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))
        return update(optimizer, *given, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    fit(replace(run, step=steep))
    assert norms == pytest.approx([5.0] * 3, rel=1e-4)
    assert all(line["grad_norm"] > 5 for line in read_jsonl(tmp_path / LOG))
