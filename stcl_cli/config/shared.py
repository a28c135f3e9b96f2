"""What several commands share."""

from __future__ import annotations

from dataclasses import dataclass

from stcl_cli.config.options import COUNT, NOT_NEGATIVE, list_option, max_side_option, option


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What every command with an output folder shares."""

    resume: bool = option(False, "Go on in a folder that a stopped run left; nothing is done twice.")
    overwrite: bool = option(False, "Empty the output folder first.")


@dataclass(frozen=True, kw_only=True)
class Sharing(Folder):
    """What every command shares whose work several processes can divide."""

    shard: str | None = option(
        None,
        "Do part K of N only, as in 3/8; the parts share the output folder. [default: what torchrun or srun gives this "
        "process to do, else all]",
        metavar="K/N",
    )


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What every command that runs a network shares."""

    device: str = option("auto", "auto, cpu, cuda or cuda:N. auto takes a GPU where there is one.")
    amp: str = option(
        "auto",
        "Mixed precision; auto is bf16 on CUDA GPUs that have it (Ampere or later), else off. On a CPU bf16 is for "
        "those that have avx512_bf16 or amx_bf16 (lscpu says so); others only imitate it.",
        choices=("auto", "bf16", "off"),
    )
    compile: bool = option(
        False, "Have PyTorch write kernels for a ViT's blocks, on a CUDA GPU: faster from some minutes on."
    )
    workers: int | None = option(
        None,
        "Processes that read photos in training [default: up to 8 beside a GPU, none on the CPU]; threads that read "
        "and write in cam and predict [default: one a core, up to 8].",
        range=NOT_NEGATIVE,
    )


@dataclass(frozen=True, kw_only=True)
class Training(Compute, Folder):
    """What both trainings share."""

    list: str | None = list_option()
    max_side: int = max_side_option()
    seed: int = option(0, "Fixes every random choice of the run.", range=NOT_NEGATIVE)
    val_masks: str | None = option(
        None,
        "True masks to measure with, never to train on: mIoU goes to metrics.jsonl, and later commands take the "
        "checkpoint that is best on them.",
        path=True,
        metavar="DIR",
    )
    val_list: str | None = option(
        None, "Measure on the photos named in FILE. [default: all with a mask]", path=True, metavar="FILE"
    )
    val_every: int | None = option(None, "Measure every N iterations. [default: a tenth of the run]", range=COUNT)
    accumulate: int = option(
        1, "Compute a batch in N equal parts, one after the other: less memory for the same batch.", range=COUNT
    )
    checkpointing: bool = option(
        False, "Keep less of a ViT's blocks and compute them again in the backward pass: less memory, more time."
    )
    save_every: int | None = option(
        None,
        "Write checkpoints/last.safetensors every N iterations. [default: a tenth of the run, at most 500]",
        range=COUNT,
    )
    log_every: int = option(20, "Write metrics.jsonl every N iterations, and with each checkpoint.", range=COUNT)
