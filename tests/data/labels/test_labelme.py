import json

import pytest

from stcl_cli.data.labels import Labels, read_labels
from stcl_cli.errors import StclError


def test_shapes_and_flags(tmp_path):
    write = lambda name, value: (tmp_path / name).write_text(json.dumps(value))  # noqa: E731
    write(
        "a.v1.json",
        {"shapes": [{"label": "cat"}, {"label": "cat"}, {"label": "__ignore__"}], "flags": {"dog": True, "emu": False}},
    )
    write("b.json", {"shapes": [], "flags": None})
    assert read_labels(tmp_path) == Labels(("cat", "dog"), {"a.v1": (0, 1), "b": ()}, "labelme")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "has no shapes"),
        ("{}", "has no shapes"),
        ('{"shapes": [{}]}', "has no shapes with labels"),
        ('{"shapes": [], "flags": [1]}', "has no shapes"),
        ('{"shapes": [{"label": NaN}]}', "nan is no class name"),
        ("{", "is not JSON"),
    ],
)
def test_errors(tmp_path, text, reason):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(StclError, match=rf"a.json: {reason}"):
        read_labels(tmp_path, None, "labelme")
