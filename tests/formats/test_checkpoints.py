import dataclasses
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from stcl_cli.errors import StclError
from stcl_cli.formats import files
from stcl_cli.formats.checkpoints import CheckpointInfo, find_checkpoint, open_checkpoint, save_checkpoint

INFO = CheckpointInfo("train", 7, ("bär", "cat"), {"lr": 1e-3, "scales": [1.0, 0.5], "list": None})


def trained(seed):
    """A network with a frozen part and a buffer, and its optimiser after two steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    model[2].bias.requires_grad_(False)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([dict(model.named_parameters())[name] for name in names], lr=0.01)
    for _ in range(2):
        step(model, optimizer)
    return model, optimizer, names


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.linspace(-1, 1, 15).view(5, 3)).square().sum().backward()
    optimizer.step()


@pytest.fixture
def file(tmp_path):
    model, optimizer, names = trained(0)
    save_checkpoint(tmp_path / "checkpoints" / "last.safetensors", model, INFO, optimizer, names)
    return tmp_path / "checkpoints" / "last.safetensors"


def test_a_run_goes_on_bit_for_bit(file):
    model, optimizer, names = trained(0)
    other, other_optimizer, _ = trained(1)
    checkpoint = open_checkpoint(file, "train")
    assert checkpoint.info == INFO
    checkpoint.load_model(other)
    checkpoint.load_optimizer(other_optimizer, names)
    for _ in range(3):
        step(model, optimizer)
        step(other, other_optimizer)
    for (name, value), again in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(value, again), name


def test_paths_that_are_not_utf8(file, tmp_path):
    info = dataclasses.replace(INFO, config={"images": "b\udce4r"})
    save_checkpoint(file, trained(0)[0], info)
    checkpoint = open_checkpoint(file, "train")
    assert checkpoint.info == info
    checkpoint.load_model(trained(1)[0])
    old = tmp_path / "b\udce4r"
    old.mkdir()
    save_checkpoint(old / "a.safetensors", trained(0)[0], info)
    checkpoint = open_checkpoint(old / "a.safetensors", "train")
    assert checkpoint.info == info
    checkpoint.load_model(trained(1)[0])


def test_best_goes_before_last_and_a_file_may_be_named(file, tmp_path):
    assert find_checkpoint(tmp_path) == find_checkpoint(file) == file
    best = file.with_name("best.safetensors")
    save_checkpoint(best, trained(0)[0], INFO)
    assert find_checkpoint(tmp_path) == best
    assert not any(name.startswith("optimizer.") for name in load_file(best))
    with pytest.raises(StclError, match=r"gone: no checkpoint there .*; train first"):
        find_checkpoint(tmp_path / "gone")


def test_a_checkpoint_that_may_not_be_read(file, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files, "open", refuse, raising=False)
    with pytest.raises(StclError, match=r"last.safetensors: cannot be read \(Permission denied\); check"):
        open_checkpoint(file, "train")


def test_a_checkpoint_of_another_stage(file):
    with pytest.raises(StclError, match=r"a checkpoint of stcl train, but one of stcl segtrain is needed"):
        open_checkpoint(file, "segtrain")


@pytest.mark.parametrize("size", [0, 4, 200, -1])
def test_a_file_cut_short(file, size):
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(StclError, match=f"{file}: not a checkpoint of stcl, or cut short"):
        open_checkpoint(file, "train")


@pytest.mark.parametrize("metadata", [None, {"stcl": "{"}, {"stcl": "[]"}, {"stcl": "null"}, {"stcl": '{"format": 1}'}])
def test_a_safetensors_file_of_something_else(file, metadata):
    save_file({"x": torch.zeros(1)}, file, metadata)
    with pytest.raises(StclError, match=f"{file}: not a checkpoint of stcl"):
        open_checkpoint(file, "train")


def test_a_checkpoint_of_a_later_format_whatever_it_holds(file):
    with safe_open(file, "pt") as opened:
        metadata = json.loads(opened.metadata()["stcl"])
    metadata |= {"format": 2, "a field of the future": 1}
    save_file(load_file(file), file, {"stcl": json.dumps(metadata)})
    with pytest.raises(StclError, match=r"checkpoint format 2, this stcl reads 1; install the stcl that wrote it"):
        open_checkpoint(file, "train")


@pytest.mark.parametrize(
    "other", [nn.Linear(3, 4), nn.Sequential(*(nn.Linear(3, 4) for _ in range(200))), nn.Sequential(nn.Linear(9, 4))]
)
def test_weights_of_another_network(file, other):
    with pytest.raises(StclError, match="the weights do not fit the network") as caught:
        open_checkpoint(file, "train").load_model(other)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
