import errno
import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats import files


def test_atomic_write_makes_folders_and_replaces(tmp_path):
    target = tmp_path / "a" / "b" / "x.bin"
    for content in (b"first", b"second"):
        with files.atomic_write(target) as temporary:
            temporary.write_bytes(content)
            assert temporary.parent == target.parent
            assert temporary.name.startswith(".")
        assert target.read_bytes() == content
    assert os.listdir(target.parent) == ["x.bin"]


def test_atomic_write_obeys_the_umask(tmp_path):
    with files.atomic_write(tmp_path / "x") as temporary:
        temporary.write_bytes(b"1")
    (tmp_path / "plain").write_bytes(b"1")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt()])
def test_atomic_write_keeps_the_old_file_on_any_error(tmp_path, error):
    target = tmp_path / "x"
    target.write_text("old")

    def write():
        with files.atomic_write(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_full_disk_is_one_line(tmp_path):
    """A real refusal of the kernel: the limit on file sizes stands in for a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write():
        with files.atomic_write(tmp_path / "x") as temporary:
            temporary.write_bytes(bytes(1 << 20))

    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(StclError, match=r"x: cannot be written \(File too large\); .*resume"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_no_space_names_the_cure(tmp_path):
    with (
        pytest.raises(StclError, match=r"No space left on device.*free some space"),
        files.atomic_write(tmp_path / "x"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_name_that_is_taken_by_a_file_or_folder_or_too_long(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for name, cure in (("file/x", "rename one photo"), ("folder", "rename one photo"), ("x" * 300, "shorten")):
        target = tmp_path / name
        # a run goes on without that photo
        with pytest.raises(PhotoError, match=f"cannot be written.*{cure}"), files.atomic_write(target) as temporary:
            temporary.write_text("1")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_output_path_keeps_dots():
    assert files.output_path("out", "sub/photo.v1", ".png") == Path("out/sub/photo.v1.png")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_read_text_encodings(tmp_path, encoding):
    path = tmp_path / "x.txt"
    path.write_bytes("bär\r\n".encode(encoding))
    assert files.read_text(path) == "bär\r\n"


def test_read_text_errors(tmp_path):
    (tmp_path / "latin.txt").write_bytes("a\nbär".encode("latin-1"))
    with pytest.raises(StclError, match=r"latin.txt line 2: .*save it as UTF-8"):
        files.read_text(tmp_path / "latin.txt")
    assert os.fsencode(files.read_text(tmp_path / "latin.txt", "surrogateescape")) == "a\nbär".encode("latin-1")
    (tmp_path / "cut.txt").write_bytes(b"\xff\xfea")
    with pytest.raises(StclError, match="UTF-8"):
        files.read_text(tmp_path / "cut.txt", "surrogateescape")
    with pytest.raises(StclError, match="cannot be read"):
        files.read_text(tmp_path / "none.txt")


def test_json_of_what_runs_hold(tmp_path):
    value = {"path": Path("a/b"), "nan": float("nan"), "np": np.float32(0.5), "ids": (1, np.int64(2)), 3: np.arange(2)}
    files.write_json(tmp_path / "x.json", value)
    assert files.read_json(tmp_path / "x.json") == {
        "path": "a/b",
        "nan": None,
        "np": 0.5,
        "ids": [1, 2],
        "3": [0, 1],
    }


@given(st.text(st.characters(exclude_categories=[])))
def test_json_bytes_hold_any_file_name(name):
    """Lone surrogates (undecodable bytes of a file name) come back from valid UTF-8."""
    data = files.json_bytes({"name": name})
    data.decode("utf-8")
    assert data.count(b"\n") == 1
    # a pair of escapes is one character in JSON, so compare as UTF-16 code units
    back = json.loads(data)["name"]
    assert back.encode("utf-16", "surrogatepass") == name.encode("utf-16", "surrogatepass")


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000])
def test_read_json_errors(tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(StclError, match=r"x.json: is not JSON"):
        files.read_json(tmp_path / "x.json")
