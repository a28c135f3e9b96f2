"""`stcl predict`: photos and a segmentation model -> one mask a photo."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from stcl_cli.config import PredictConfig
from stcl_cli.console import meter, say
from stcl_cli.data.photos import list_photos, photo_size, read_photo
from stcl_cli.errors import PhotoError
from stcl_cli.formats.masks import read_mask
from stcl_cli.inference import photo_scores
from stcl_cli.networks import load_segmenter
from stcl_cli.runtime import make_runtime
from stcl_cli.stages.output import Done, MaskFolder, Result, nobody, skip
from stcl_cli.strips import argmax_at_size
from stcl_cli.within_memory import Network


def run(config: PredictConfig, done: Done = nobody) -> Result:
    """Predict. Raises StclError."""
    runtime = make_runtime(config.device, config.amp)
    model, info, trained = load_segmenter(Path(config.model))
    photos, missing = list_photos(config.images, config.list)
    folder = MaskFolder(config, "predict", info.classes)
    mine = folder.failures.shard.mine
    photos = [photo for photo in photos if mine(photo.name)]
    missing = [(name, reason) for name, reason in missing if mine(name)]
    skip(folder.failures, missing)
    network = Network(model, runtime)
    todo = [photo for photo in photos if not folder.has(photo.name)]
    with meter("predict", len(photos), len(photos) - len(todo)) as gauge:
        for photo in todo:
            try:
                path = folder.mask_path(photo.name)
                if os.path.exists(path):  # what lacks is its overlay
                    mask = read_mask(path)
                else:
                    pixels = read_photo(photo.path, trained.max_side)
                    work = partial(photo_scores, photo_HW3=pixels, scales=config.scales, flip=config.flip)
                    scores = network.compute(work, photo.path)
                    mask = argmax_at_size(scores.cpu().numpy(), photo_size(photo.path))
                item = folder.write(photo, mask)
            except PhotoError as error:
                skip(folder.failures, [(photo.name, error)])
            else:
                done(item)
            gauge.advance()
    folder.failures.merge()
    skipped = len(folder.failures)
    say(f"{len(photos) + len(missing) - skipped} masks in {folder.path}")
    return Result(skipped=skipped, next=("export", folder.path, "--to", "coco", "-o", "OUT"))
