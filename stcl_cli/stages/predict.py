"""`stcl predict`: photos and a segmentation model -> one mask a photo."""

from __future__ import annotations

from pathlib import Path

from stcl_cli.config import PredictConfig
from stcl_cli.console import meter, say
from stcl_cli.data.photos import list_photos, photo_size, read_photo
from stcl_cli.errors import PhotoError
from stcl_cli.formats.files import output_path
from stcl_cli.formats.masks import write_mask
from stcl_cli.inference import argmax_at_size, photo_scores
from stcl_cli.networks import load_segmenter
from stcl_cli.runtime import make_runtime
from stcl_cli.stages.output import Result, open_folder


def run(config: PredictConfig) -> Result:
    """Predict. Raises StclError."""
    runtime = make_runtime(config.device, config.amp)
    model, info, trained = load_segmenter(Path(config.model))
    photos, missing = list_photos(config.images, config.list)
    folder, failures = open_folder(config, "predict", info.classes)
    for name, reason in missing:
        failures.add(name, reason)
    model.to(runtime.device).eval()
    todo = [photo for photo in photos if not output_path(folder, photo.name, ".png").exists()]
    with meter("predict", len(photos), len(photos) - len(todo)) as gauge:
        for photo in todo:
            try:
                pixels = read_photo(photo.path, trained.max_side)
                scores = photo_scores(model, runtime, pixels, config.scales, config.flip)
                mask = argmax_at_size(scores.cpu().numpy(), photo_size(photo.path))
                write_mask(output_path(folder, photo.name, ".png"), mask)
            except PhotoError as error:
                failures.add(photo.name, error)
            gauge.advance()
    say(f"{len(photos) - len(failures)} masks in {folder}")
    return Result(skipped=len(failures))
