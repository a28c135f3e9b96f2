import pytest

from stcl_cli.data.labels.rows import check_known, class_names, files_below, split_names, walk
from stcl_cli.errors import StclError


def test_split_names():
    assert split_names(" cat;dog | a, b;; ") == ["cat", "dog", "a, b"]
    assert split_names("cat,dog;emu", ",|") == ["cat", "dog;emu"]


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, []),
        ("", []),
        ("cat; dog", ["cat", "dog"]),
        ([], []),
        (["cat;dog", " a\u0308 "], ["cat;dog", "ä"]),
        ({}, []),
        ({"cat": 1, "dog": 0, "emu": True, "ox": False, "yak": 1.0}, ["cat", "emu", "yak"]),
        ({"choices": ["cat", "dog"]}, ["cat", "dog"]),
        ([{"x": 1.5, "rectanglelabels": ["cat"]}, {"points": [[1, 2]], "polygonlabels": ["dog"]}], ["cat", "dog"]),
    ],
)
def test_class_names(value, names):
    assert class_names(value, "here") == names


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, "3"),
        (True, "True"),
        (float("nan"), "nan"),
        ([0, 1], "0"),
        (["cat", None], "None"),
        ([["cat"]], r"\['cat'\]"),
        ({"cat": 2}, r"\{'cat': 2\}"),
        ({"cat": float("nan")}, r"\{'cat': nan\}"),
        ({"choices": "cat"}, "{'choices': 'cat'}"),
        ({"a\n": ["x" * 100]}, "{'a.*\\.\\.\\."),
    ],
)
def test_what_is_no_class_name(value, said):
    with pytest.raises(StclError, match=rf"^here: {said} is no class name; write names, in quotes$"):
        class_names(value, "here")


def test_check_known():
    check_known(["cat"], ["cat", "dog"], "here")
    with pytest.raises(
        StclError, match="here: unknown class 'dgo'; correct it to 'dog', add it to the classes, or call"
    ):
        check_known(["cat", "dgo"], ["cat", "dog"], "here")


def test_files_below(tmp_path):
    for name in ("b.xml", "a/c.XML", "a/.h.xml", ".git/d.xml", "a/e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(walk(tmp_path)) == ["a/c.XML", "a/e.txt", "b.xml"]
    assert files_below(tmp_path, ".xml") == ["a/c.XML", "b.xml"]
    with pytest.raises(StclError, match=r"holds no \.json file"):
        files_below(tmp_path, ".json")
