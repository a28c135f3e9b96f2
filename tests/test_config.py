from dataclasses import replace

import pytest

from stcl_cli.config import RefineConfig, SegtrainConfig, TrainConfig, check_values

CONFIG = TrainConfig(images="photos", labels="labels.csv", output="run")


def test_the_defaults_are_right():
    check_values(CONFIG)
    check_values(SegtrainConfig(images="photos", masks="masks", output="seg"))
    check_values(replace(CONFIG, lr=1, cam_scales=[1.0, 0.5], rescale=[1, 2], workers=0, val_every=3))


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_side": "x"},
        {"max_side": 0},
        {"max_side": 12.5},
        {"max_side": None},
        {"pretrained": 1},
        {"iterations": True},
        {"top_share": 1.5},
        {"amp": "fp8"},
        {"backbone": None},
        {"cam_scales": 1.0},
        {"cam_scales": []},
        {"cam_scales": [1.0, "x"]},
        {"rescale": [1.0]},
        {"rescale": [1.0, 2.0, 3.0]},
        {"list": 3},
        {"lr": 0},
        {"lr": float("inf")},
        {"lr": 10**400},
        {"memory_slots": 10**30},
        {"rescale": [1.0, float("nan")]},
    ],
)
def test_a_value_of_another_kind_is_named(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"^{name} is "):
        check_values(replace(CONFIG, **wrong))


@pytest.mark.parametrize("confidence", [0, 1])
def test_bounds_that_are_no_values_themselves(confidence):
    config = RefineConfig(cams="cams", images="photos", output="masks")
    check_values(config)
    with pytest.raises(ValueError, match=r"^confidence is "):
        check_values(replace(config, confidence=confidence))
