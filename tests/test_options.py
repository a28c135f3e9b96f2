import pytest
from click.testing import CliRunner

from stcl_cli.cli import main


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_are_finite(value):
    ended = CliRunner().invoke(main, ["train", "photos", "--labels", "l.csv", "-o", "out", "--lr", value])
    assert ended.exit_code == 2
    assert f"{value} is no finite number" in ended.stderr or "not in the range" in ended.stderr


@pytest.mark.parametrize("option", ["pos-xy", "pos-weight", "bilateral-xy", "bilateral-rgb", "bilateral-weight"])
def test_numbers_of_the_crf_are_within_float32(option):
    ended = CliRunner().invoke(main, ["refine", "cams", "--images", "photos", "-o", "out", f"--crf-{option}", "1e300"])
    assert ended.exit_code == 2
    assert "1e+300 is not in the range" in ended.stderr
