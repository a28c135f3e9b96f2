import pytest
from click.testing import CliRunner

from stcl_cli.cli import main


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_are_finite(value):
    ended = CliRunner().invoke(main, ["train", "photos", "--labels", "l.csv", "-o", "out", "--lr", value])
    assert ended.exit_code == 2
    assert f"{value} is no finite number" in ended.stderr or "not in the range" in ended.stderr
