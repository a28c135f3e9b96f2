import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stcl_cli.errors import StclError
from stcl_cli.formats import classes


def test_round_trip(tmp_path):
    names = ("cat", "Bär", "a/b; 'c' \"d\"", "..", "dining table")
    classes.write_classes(tmp_path / "classes.txt", names)
    lines = (tmp_path / "classes.txt").read_text().splitlines()
    assert lines == ["background", *names]  # line number = value in masks
    assert classes.read_classes(tmp_path / "classes.txt") == names


@pytest.mark.parametrize("first", ["", "background\n", "_background_\n", "__Background__\r\n", "BACKGROUND\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_background_line_encodings_and_blanks(tmp_path, first, encoding):
    (tmp_path / "x.txt").write_bytes(f"{first}cat \r\nBär\n\n".encode(encoding))
    assert classes.read_classes(tmp_path / "x.txt") == ("cat", "Bär")


def test_unicode_is_composed(tmp_path):
    (tmp_path / "x.txt").write_text(unicodedata.normalize("NFD", "Bär"))
    assert classes.read_classes(tmp_path / "x.txt") == (unicodedata.normalize("NFC", "Bär"),)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "empty class name"),
        ("background\n", "names no class"),
        ("cat\n\ndog", "empty class name"),
        ("cat\ndog\ncat", "'cat' twice"),
        ("Ba\u0308r\nB\u00e4r", "twice"),
        ("cat\nbackground", "'background' is no class"),
        ("c\x07t", r"'c\\x07t' has a control character"),
        ("a\u2028b", "control character"),
        ("\n".join(f"c{i}" for i in range(255)), "names 255 classes"),
    ],
)
def test_errors(tmp_path, content, reason):
    (tmp_path / "x.txt").write_text(content)
    with pytest.raises(StclError, match=rf"x.txt: .*{reason}"):
        classes.read_classes(tmp_path / "x.txt")


def test_254_classes_fit(tmp_path):
    names = tuple(f"c{i}" for i in range(254))
    classes.write_classes(tmp_path / "x.txt", names)
    assert classes.read_classes(tmp_path / "x.txt") == names


@given(st.lists(st.text(max_size=5), max_size=5))
def test_what_is_accepted_comes_back(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("classes") / "classes.txt"
    try:
        classes.write_classes(path, names)
    except StclError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert classes.read_classes(path) == tuple(map(classes.clean_name, names))


def test_find_classes(tmp_path):
    folders = [tmp_path / "a" / "masks", tmp_path / "b" / "masks"]
    for folder in folders:
        folder.mkdir(parents=True)
    with pytest.raises(StclError, match=r"masks nor .*masks: no classes.txt .*; write one, a class a line"):
        classes.find_classes(None, *folders)
    classes.write_classes(tmp_path / "b" / "classes.txt", ["beside"])
    assert classes.find_classes(None, *folders) == ("beside",)
    classes.write_classes(folders[0] / "classes.txt", ["inside"])
    assert classes.find_classes(None, *folders) == ("inside",)
    classes.write_classes(tmp_path / "given.txt", ["given"])
    assert classes.find_classes(tmp_path / "given.txt", *folders) == ("given",)
