"""Measuring in training where memory is too small; the figures themselves are tested with the stages."""

import pytest
import torch

from stcl_cli import validation
from stcl_cli.config import SegtrainConfig, TrainConfig
from stcl_cli.data.photos import list_photos
from stcl_cli.networks import load_segmenter, load_stcl
from stcl_cli.runtime import make_runtime


@pytest.mark.parametrize("what", ["photo_cams", "photo_scores"])
def test_a_photo_that_there_is_too_little_memory_for_is_skipped_and_named(trained, monkeypatch, what):
    photos = list_photos(str(trained.photos)).photos
    given = {"images": str(trained.photos), "output": "", "val_masks": str(trained.root / "truth")}
    runtime, classes = make_runtime("cpu"), ("cat", "dog")
    if what == "photo_cams":
        config = TrainConfig(labels="", cam_scales=(1.0,), **given)
        labelled = [(photo, (0, 1)) for photo in photos]
        measure = validation.cam_validation(load_stcl(trained.run)[0], config, runtime, classes, labelled)
    else:
        config = SegtrainConfig(masks="", **given)
        measure = validation.segmentation_validation(load_segmenter(trained.seg)[0], config, runtime, classes)
    compute, asked = getattr(validation, what), []

    def full(*inputs, **options):
        asked.append(inputs)
        if len(asked) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return compute(*inputs, **options)

    monkeypatch.setattr(validation, what, full)
    measured = measure(lambda text: None)
    assert len(asked) == 3
    ((name, reason),) = measured["skipped"]
    assert name == photos[1].name
    assert "too little memory" in reason
    assert 0 <= measured["miou"] <= 1
