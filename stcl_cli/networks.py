"""From a config or a checkpoint to a network; what cannot be made becomes one clear line."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from stcl_cli.config import SegtrainConfig, TrainConfig, check_values
from stcl_cli.console import say, warn
from stcl_cli.errors import StclError
from stcl_cli.formats.checkpoints import Checkpoint, CheckpointInfo, last_checkpoint, open_checkpoint
from stcl_cli.wording import shown
from stcl_models.backbone import Backbone, BackboneError
from stcl_models.segmenter import SmpSegmenter, VitSegmenter
from stcl_models.stcl import Stcl

LAYER_DECAY = 0.75  # from pretrained weights; as MAE (He et al., CVPR 2022) fine-tunes

AnyConfig = TypeVar("AnyConfig", TrainConfig, SegtrainConfig)
Network = TypeVar("Network", bound=nn.Module)


def build_stcl(config: TrainConfig, classes: int) -> Stcl:
    """A new network, as the config describes it."""
    config = _as_resumed(config)
    try:
        with _download(config, config.backbone):
            backbone = Backbone(
                config.backbone,
                pretrained=config.pretrained,
                weights=_path(config.weights),
                aux_layer=config.aux_layer,
                memory_layer=config.memory_layer,
            )
    except BackboneError as error:
        raise StclError(str(error)) from error
    backbone.vit.set_grad_checkpointing(config.checkpointing)
    memory = {
        "slots": config.memory_slots,
        "adaptive": config.memory_update == "adaptive",
        "half_life": max(1, config.memory_half_life * config.iterations),
    }
    return Stcl(
        backbone,
        classes,
        config.top_share,
        memory if config.memory_slots else None,
        contrast=config.w_class > 0,
        segmentation=config.w_seg > 0,
    )


def load_stcl(path: Path) -> tuple[Stcl, CheckpointInfo, TrainConfig]:
    """A trained network from a run folder or checkpoint."""
    checkpoint = open_checkpoint(path, "train")
    config = _config_of(checkpoint, TrainConfig)
    model = _as_described(checkpoint, build_stcl, config)
    checkpoint.load_model(model)
    _say_how_far(checkpoint, config)
    return model, checkpoint.info, config


def build_segmenter(config: SegtrainConfig, classes: int) -> VitSegmenter | SmpSegmenter:
    """A new segmentation model; with --init its ViT starts from the backbone of an STCL run."""
    config = _as_resumed(config)
    if config.init and config.arch != "vit":
        raise StclError(f"--init needs --arch vit: {config.arch} cannot take over a ViT's weights")
    if config.checkpointing and config.arch != "vit":
        raise StclError(f"--checkpointing needs --arch vit, not {config.arch}; take a smaller --batch-size")
    if config.init and config.weights:
        raise StclError("--init: brings the weights of its run; leave out --weights")
    weights = _path(config.weights)
    try:
        if config.arch != "vit":
            with _download(config, config.encoder):
                return SmpSegmenter(config.arch, config.encoder, classes, pretrained=config.pretrained, weights=weights)
        if config.init:
            stcl, _, trained = load_stcl(Path(config.init))
            if config.encoder != trained.backbone:
                raise StclError(
                    f"--encoder {config.encoder}: the backbone of {config.init} is {trained.backbone}; give that one"
                )
            backbone = stcl.backbone
        else:
            with _download(config, config.encoder):
                backbone = Backbone(config.encoder, pretrained=config.pretrained, weights=weights, aux_layer=-1)
        backbone.vit.set_grad_checkpointing(config.checkpointing)
        return VitSegmenter(backbone, classes)
    except BackboneError as error:
        raise StclError(str(error)) from error


@contextmanager
def _download(config: TrainConfig | SegtrainConfig, name: str) -> Iterator[None]:
    """Say that pretrained weights may be downloaded inside; the hub's own lines, two for each try, add nothing."""
    if config.pretrained and not config.weights:
        say(f"pretrained weights of {name}: from the hub, once")
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def load_segmenter(path: Path) -> tuple[VitSegmenter | SmpSegmenter, CheckpointInfo, SegtrainConfig]:
    """A trained segmentation model from a run folder or checkpoint."""
    checkpoint = open_checkpoint(path, "segtrain")
    config = _config_of(checkpoint, SegtrainConfig)
    model = _as_described(checkpoint, build_segmenter, config)
    checkpoint.load_model(model)
    _say_how_far(checkpoint, config)
    return model, checkpoint.info, config


def _say_how_far(checkpoint: Checkpoint, config: TrainConfig | SegtrainConfig) -> None:
    """`best` may be of any iteration; `last` is of the final one, unless its training was stopped."""
    last = checkpoint
    if checkpoint.path.stem == "best":
        say(f"{shown(checkpoint.path)}: the best, of iteration {checkpoint.info.iteration:,} of {config.iterations:,}")
        with suppress(StclError):  # it is not needed
            last = open_checkpoint(checkpoint.path.with_stem("last"), checkpoint.info.stage)
    if last.path.stem == "last" and last.info.iteration < config.iterations:
        cure = "go on with its training, and make anew what you make of it now"
        warn(f"{shown(last.path)}: is of iteration {last.info.iteration:,} of {config.iterations:,}; {cure}")


def compile_blocks(model: Stcl | VitSegmenter | SmpSegmenter, device: torch.device) -> None:
    """`--compile`. Raises StclError where it cannot be had."""
    if device.type != "cuda":
        raise StclError("--compile: is for CUDA GPUs; leave it out")
    if isinstance(model, SmpSegmenter):
        raise StclError("--compile: is for ViTs; leave it out")
    compiler = any(map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang")))
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not importlib.util.find_spec("triton") or not compiler or not header.is_file():
        raise StclError(
            "--compile: needs Triton, a C compiler (gcc) and Python's headers (python3-dev); "
            "install them, or leave it out"
        )
    (model.backbone if isinstance(model, Stcl) else model.encoder).compile_blocks()


def default_encoder(config: SegtrainConfig) -> str:
    """What --encoder is when it was not given."""
    if config.init:
        return _config_of(open_checkpoint(Path(config.init), "train"), TrainConfig).backbone
    return "vit_base_patch16_224.augreg_in21k_ft_in1k" if config.arch == "vit" else "resnet50"


def parameter_groups(
    backbone: nn.Module, model: nn.Module, lr: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """The backbone at `lr`, everything on it at ten times that (ToCo).

    Each block of a ViT learns at `layer_decay` times the rate of the next one, what comes before the blocks as one more
    (ELECTRA, Clark et al., ICLR 2020; BEiT, Bao et al., ICLR 2022): pretrained weights keep what they know of objects.
    """
    by_rate: dict[float, list[nn.Parameter]] = {lr: []}  # first what learns at `lr`, for the log
    for name, parameter in backbone.named_parameters():
        above = 0 if layer_decay == 1 else _blocks_above(name, len(backbone.vit.blocks))
        by_rate.setdefault(lr * layer_decay**above, []).append(parameter)
    own = {id(p) for p in backbone.parameters()}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
    return [{"params": params, "lr": rate} for rate, params in [*by_rate.items(), (10 * lr, rest)]]


def _blocks_above(name: str, depth: int) -> int:
    """How many of a ViT's blocks follow the one that a parameter of a Backbone is in; none what norms their tokens."""
    _, part, *inner = name.split(".")
    if part == "blocks":
        return depth - 1 - int(inner[0])
    return 0 if part in ("norm", "fc_norm") else depth


def _config_of(checkpoint: Checkpoint, config_class: type[AnyConfig]) -> AnyConfig:
    try:
        config = config_class(**checkpoint.info.config)
        check_values(config)
    except (TypeError, ValueError) as error:
        raise StclError(
            f"{shown(checkpoint.path)}: was written by another version of stcl ({shown(str(error))}); install that one"
        ) from error
    return config


def _as_described(
    checkpoint: Checkpoint, build: Callable[..., Network], config: TrainConfig | SegtrainConfig
) -> Network:
    """The network of a checkpoint, without its weights. StclError, which names the file, if it cannot be made."""
    try:
        return build(_untrained(config), len(checkpoint.info.classes))
    except StclError as error:
        raise StclError(f"{shown(checkpoint.path)}: {error}") from error


def _untrained(config: AnyConfig) -> AnyConfig:
    """Where every weight comes from a checkpoint, none is downloaded or read from elsewhere, and none is learnt."""
    init = {"init": None} if hasattr(config, "init") else {}
    return replace(config, pretrained=False, weights=None, checkpointing=False, **init)


def _as_resumed(config: AnyConfig) -> AnyConfig:
    """A training that goes on needs no pretrained weights, which may be gone, or out of reach on a cluster's nodes."""
    if config.resume and last_checkpoint(Path(config.output)).is_file():
        return replace(config, pretrained=False, weights=None)
    return config


def _path(name: str | None) -> Path | None:
    return Path(name) if name else None
