import importlib.util
import logging
import shutil
import sysconfig
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from stcl_cli import networks
from stcl_cli.config import SegtrainConfig, TrainConfig
from stcl_cli.errors import StclError
from stcl_cli.formats.checkpoints import CheckpointInfo, save_checkpoint
from stcl_cli.networks import (
    build_segmenter,
    build_stcl,
    compile_blocks,
    default_encoder,
    load_segmenter,
    load_stcl,
    parameter_groups,
)
from stcl_models.backbone import BackboneError

TRAIN = TrainConfig(images="", labels="", output="", backbone="stcl_tiny", aux_layer=-2, pretrained=False)
SEGTRAIN = SegtrainConfig(images="", masks="", output="", encoder="stcl_tiny", pretrained=False)
CLASSES = ("cat", "dog")


def save(folder, model, stage, config):
    save_checkpoint(folder / "checkpoints" / "last.safetensors", model, CheckpointInfo(stage, 1, CLASSES, config))


@pytest.fixture
def run(tmp_path):
    """A trained run folder; where its backbone's weights came from is gone by now."""
    model = build_stcl(TRAIN, 2)
    save(tmp_path / "run", model, "train", asdict(replace(TRAIN, pretrained=True, weights="gone.safetensors")))
    return tmp_path / "run", model


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_run_is_loaded_from_its_checkpoint_alone(run):
    folder, model = run
    loaded, info, config = load_stcl(folder)
    assert same_weights(loaded, model)
    assert loaded.backbone.aux_index == 1  # the second from the end of three
    assert info.classes == CLASSES
    assert config.crop_size == TRAIN.crop_size


def test_a_run_that_was_stopped_is_told(run, capsys):
    folder, model = run
    load_stcl(folder)
    path = folder / "checkpoints" / "last.safetensors"
    assert capsys.readouterr().err.startswith(f"stcl: {path}: is of iteration 1 of 20,000; go on with its training")
    best = path.with_name("best.safetensors")
    shutil.copy(path, best)
    load_stcl(folder)
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"{best}: the best, of iteration 1 of 20,000"
    assert second.startswith(f"stcl: {path}: is of iteration 1 of 20,000; go on with its training")
    path.unlink()
    load_stcl(folder)
    assert capsys.readouterr().err == f"{best}: the best, of iteration 1 of 20,000\n"
    save(folder, model, "train", asdict(replace(TRAIN, iterations=1)))
    load_stcl(path)
    assert capsys.readouterr().err == ""


def test_a_checkpoint_whose_config_lacks_its_backbone_is_named(run):
    folder, model = run
    fields = asdict(TRAIN)
    del fields["backbone"], fields["images"]
    save(folder, model, "train", fields)
    with pytest.raises(StclError, match=r"last.safetensors: was written by another version of stcl"):
        default_encoder(replace(SEGTRAIN, init=str(folder), encoder=None))


def test_a_segmenter_takes_over_the_backbone_of_a_run(run, tmp_path):
    folder, model = run
    config = replace(SEGTRAIN, init=str(folder), encoder=None)
    config = replace(config, encoder=default_encoder(config))
    segmenter = build_segmenter(config, 2)
    assert same_weights(segmenter.encoder, model.backbone)
    save(tmp_path / "seg", segmenter, "segtrain", asdict(config))
    model.backbone.vit.norm.bias.data.add_(1)
    save(folder, model, "train", asdict(TRAIN))  # the run goes on, which is no matter to the segmenter
    assert same_weights(load_segmenter(tmp_path / "seg")[0], segmenter)


@pytest.mark.parametrize(("arch", "encoder"), [("vit", "stcl_tiny"), ("fpn", "mobilenetv3_small_050")])
def test_segmenters_are_loaded_from_their_checkpoints(tmp_path, arch, encoder):
    config = replace(SEGTRAIN, arch=arch, encoder=encoder)
    model = build_segmenter(config, 2)
    save(tmp_path, model, "segtrain", asdict(config))
    assert same_weights(load_segmenter(tmp_path)[0], model)


def test_what_does_not_go_together(run):
    folder, _ = run
    with pytest.raises(StclError, match="--init needs --arch vit: unet cannot take over"):
        build_segmenter(replace(SEGTRAIN, init=str(folder), arch="unet"), 2)
    with pytest.raises(StclError, match=r"--encoder vit_tiny_patch16_224: the backbone of .*run is stcl_tiny; give"):
        build_segmenter(replace(SEGTRAIN, init=str(folder), encoder="vit_tiny_patch16_224"), 2)
    with pytest.raises(StclError, match="--init: brings the weights of its run; leave out --weights"):
        build_segmenter(replace(SEGTRAIN, init=str(folder), weights="file"), 2)
    with pytest.raises(StclError, match="Unknown model"):
        build_stcl(replace(TRAIN, backbone="no_such_vit"), 2)
    with pytest.raises(StclError, match=r"gone.safetensors: not a readable"):
        build_stcl(replace(TRAIN, weights="gone.safetensors"), 2)


def test_a_checkpoint_with_options_of_another_version(run):
    folder, model = run
    save(folder, model, "train", asdict(TRAIN) | {"future": 1})
    with pytest.raises(StclError, match=r"last.safetensors: was written by another version of stcl .*'future'"):
        load_stcl(folder)


def test_everything_that_learns_is_in_one_group_and_heads_learn_faster():
    model = build_stcl(TRAIN, 2)
    slow, fast = parameter_groups(model.backbone, model, 1e-4)
    assert (slow["lr"], fast["lr"]) == (1e-4, pytest.approx(1e-3))
    grouped = [id(p) for group in (slow, fast) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert len(slow["params"]) == len(list(model.backbone.parameters()))


def test_with_a_layer_decay_each_block_learns_slower_than_the_next_one():
    model = build_stcl(TRAIN, 2)
    groups = parameter_groups(model.backbone, model, 1e-4, 0.5)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in groups)
    assert rates.keys() == {id(p) for p in model.parameters() if p.requires_grad}
    vit, depth = model.backbone.vit, len(model.backbone.vit.blocks)
    assert groups[0]["lr"] == 1e-4  # which the log shows
    for index, block in enumerate(vit.blocks):
        expected = 1e-4 * 0.5 ** (depth - 1 - index)
        assert all(rates[id(p)] == pytest.approx(expected) for p in block.parameters())
    for early in (vit.pos_embed, vit.cls_token, *vit.patch_embed.parameters()):
        assert rates[id(early)] == pytest.approx(1e-4 * 0.5**depth)
    assert rates[id(vit.norm.weight)] == 1e-4
    assert rates[id(model.classifier.weight)] == pytest.approx(1e-3)


def test_heads_are_there_for_losses_that_are_on():
    def heads(**weights):
        return {name.split(".")[0] for name in build_stcl(replace(TRAIN, **weights), 2).state_dict()} & {
            "student",
            "teacher",
            "decoder",
        }

    assert heads() == set()
    assert heads(w_class=0.5) == {"student", "teacher"}
    assert heads(w_seg=0.1) == {"decoder"}


def test_a_loaded_network_keeps_what_it_computes(run):
    folder, model = run
    save(folder, model, "train", asdict(replace(TRAIN, checkpointing=True)))
    assert not load_stcl(folder)[0].backbone.vit.grad_checkpointing


@pytest.mark.parametrize(("build", "config"), [(build_stcl, TRAIN), (build_segmenter, SEGTRAIN)])
def test_checkpointing_gives_the_same_gradients_and_keeps_less(build, config, tmp_path):
    torch.manual_seed(0)
    plain = build(config, 2).train()
    less = build(replace(config, checkpointing=True), 2).train()
    less.load_state_dict(plain.state_dict())
    found, kept = [], []
    for model in (plain, less):
        saved = []
        backbone = getattr(model, "backbone", None) or model.encoder
        images = backbone.normalise(torch.arange(3 * 64 * 64).view(1, 3, 64, 64) % 251)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: (s.append(t.numel()), t)[1], lambda t: t):
            tokens = backbone(images)
            loss = tokens.patch_BND.square().sum() + tokens.aux_BND.sum()
        loss.backward()
        found.append([parameter.grad for parameter in backbone.parameters()])
        kept.append(sum(saved))
    assert kept[1] < 0.5 * kept[0]
    for mine, other in zip(*found, strict=True):
        assert (mine is None and other is None) or torch.allclose(mine, other, rtol=1e-4, atol=1e-6)


def test_a_download_is_told_and_the_hubs_own_lines_are_left_out(monkeypatch, capsys):
    log, levels = logging.getLogger("huggingface_hub"), []
    monkeypatch.setattr(log, "level", logging.INFO)

    def unreachable(*arguments, **options):
        levels.append(log.level)
        raise BackboneError("no hub")

    monkeypatch.setattr(networks, "Backbone", unreachable)
    for config in (TRAIN, replace(TRAIN, pretrained=True)):
        with pytest.raises(StclError, match="no hub"):
            build_stcl(config, 2)
    assert (levels, log.level) == ([logging.ERROR] * 2, logging.INFO)
    assert capsys.readouterr().err == "pretrained weights of stcl_tiny: from the hub, once\n"


def test_compiled_blocks_are_those_of_a_vit_on_a_gpu(monkeypatch, tmp_path):
    model = build_stcl(TRAIN, 2)
    with pytest.raises(StclError, match="--compile: is for CUDA GPUs; leave it out"):
        compile_blocks(model, torch.device("cpu"))
    gpu = torch.device("cuda")
    unet = build_segmenter(replace(SEGTRAIN, arch="unet", encoder="resnet18"), 2)
    with pytest.raises(StclError, match="--compile: is for ViTs; leave it out"):
        compile_blocks(unet, gpu)
    (tmp_path / "Python.h").touch()
    there = {
        (shutil, "which"): lambda name: name,
        (importlib.util, "find_spec"): lambda name: name,
        (sysconfig, "get_path"): lambda name: tmp_path,
    }
    for place, found in there.items():
        monkeypatch.setattr(*place, found)
    for place in there:
        with monkeypatch.context() as patch:
            patch.setattr(*place, lambda name: "")
            with pytest.raises(StclError, match=r"needs Triton, a C compiler \(gcc\) and Python's headers"):
                compile_blocks(model, gpu)
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, dynamic: compiled.append((module, dynamic)))
    for network in (model, build_segmenter(SEGTRAIN, 2)):
        compiled.clear()
        compile_blocks(network, gpu)
        backbone = getattr(network, "backbone", None) or network.encoder
        assert compiled == [(block, True) for block in backbone.vit.blocks]
        hooks = [(*m._forward_pre_hooks, *m._forward_hooks) for m in backbone.vit.modules()]
        assert not any(hooks)  # Python that a compiler trips over


def test_checkpointing_is_for_vits():
    with pytest.raises(StclError, match="--checkpointing needs --arch vit, not unet; take a smaller"):
        build_segmenter(replace(SEGTRAIN, arch="unet", encoder="resnet18", checkpointing=True), 2)
