import io
import os
import sys
from pathlib import Path

import pytest

from stcl_cli.data import photos
from stcl_cli.errors import StclError


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def names(listing):
    return [photo.name for photo in listing.photos]


def test_folder(tmp_path):
    touch(tmp_path, "b.JPG", "sub dir/bär 01.jpeg", "sub dir/deep/x.v1.webp", "z.tif", "y.TIFF", "w.bmp", "v.png")
    touch(tmp_path, ".hidden.jpg", ".git/x.jpg", "notes.txt", "noext", "._b.JPG")
    listing = photos.list_photos(str(tmp_path))
    assert names(listing) == ["b", "sub dir/bär 01", "sub dir/deep/x.v1", "v", "w", "y", "z"]
    assert listing.photos[1].path == tmp_path / "sub dir" / "bär 01.jpeg"
    assert listing.missing == []


def test_names_never_collide(tmp_path):
    touch(tmp_path, "a.jpg", "a.png", "a.jpg.png", "s/a.jpg", "b.jpg", "b.jpg.png", "B.jpg")
    expected = ["B", "a.jpg", "a.jpg.png", "a.png", "b", "b.jpg.png", "s/a"]
    assert names(photos.list_photos(tmp_path)) == expected


def test_bytes_that_are_no_utf8(tmp_path):
    touch(tmp_path, os.fsdecode(b"b\xe4r.jpg"))
    (photo,) = photos.list_photos(tmp_path).photos
    assert os.fsencode(photo.name) == b"b\xe4r"
    assert photo.path.exists()


def test_nothing_found(tmp_path):
    touch(tmp_path, "notes.txt", ".hidden.jpg")
    with pytest.raises(StclError, match=r"holds no photo; give a folder"):
        photos.list_photos(tmp_path)
    (tmp_path / "site").symlink_to("not mounted")
    with pytest.raises(StclError, match=r"holds no photo \(site is a broken link\); give a folder"):
        photos.list_photos(tmp_path)
    with pytest.raises(StclError, match=r"none: is not there"):
        photos.list_photos(tmp_path / "none")


def test_list_with_relative_paths(tmp_path, monkeypatch):
    touch(tmp_path, "p/a.jpg", "p/sub/b c.png", "p/d.psd")
    monkeypatch.chdir(tmp_path)
    content = "\ufeff./p/a.jpg\r\n\r\np/x/../sub/b c.png  \r\np/none.jpg\r\np/a.jpg\r\np\r\np/d.psd"
    (tmp_path / "p" / "x").mkdir()
    (tmp_path / "list.txt").write_text(content)
    listing = photos.list_photos("list.txt")
    assert names(listing) == ["p/a", "p/d.psd", "p/sub/b c"]  # a suffix that is no photo's stays
    assert listing.missing == [("p/none.jpg", "is not there"), ("p", "is a folder")]


def test_list_paths_count_from_its_own_folder_too(tmp_path):
    touch(tmp_path, "p/a.jpg")
    (tmp_path / "p" / "list.txt").write_text("a.jpg")
    (photo,) = photos.list_photos(tmp_path / "p" / "list.txt").photos
    assert photo == photos.Photo("a", tmp_path / "p" / "a.jpg")


def test_list_of_paths_as_windows_writes_them(tmp_path):
    touch(tmp_path, "sub/a.jpg", "sub/b\\c.jpg")
    (tmp_path / "list.txt").write_text("sub\\a.jpg\r\nsub/b\\c.jpg\r\n")
    assert names(photos.list_photos(tmp_path / "list.txt")) == ["sub/a", "sub/b\\c"]


def test_list_with_absolute_paths(tmp_path):
    touch(tmp_path, "p/a.jpg", "p/sub/b.jpg", "p/sub/deep/a.jpg")
    (tmp_path / "list.txt").write_text("\n".join(str(path) for path in (tmp_path / "p").rglob("*.jpg")))
    assert names(photos.list_photos(tmp_path / "list.txt")) == ["a", "sub/b", "sub/deep/a"]


def test_list_never_leads_outside(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "w/b.jpg", "w/v/c.jpg")
    monkeypatch.chdir(tmp_path / "w")
    Path("list.txt").write_text("../a.jpg\nb.jpg\nv/../../w/v/c.jpg")
    assert names(photos.list_photos("list.txt")) == ["a", "w/b", "w/v/c"]


def test_list_in_which_links_hide_that_photos_differ(tmp_path):
    for path in (tmp_path / "real" / "s.jpg", tmp_path / "s.jpg"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "real" / "deep").mkdir()
    (tmp_path / "link").symlink_to("real/deep")
    (tmp_path / "list.txt").write_text("link/../s.jpg\ns.jpg\n./s.jpg\n")
    found, missing = photos.list_photos(tmp_path / "list.txt")
    assert [photo.name for photo in found] == ["s"]
    reason = f"would have the name of {tmp_path}/link/../s.jpg; write its path without links"
    assert missing == [("s.jpg", reason), ("./s.jpg", reason)]


@pytest.mark.parametrize("separator", [b"\n", b"\0"])
def test_stdin(tmp_path, monkeypatch, separator):
    touch(tmp_path, "a.jpg", "sub/bär.jpg")
    data = separator.join(os.fsencode(tmp_path / path) for path in ("a.jpg", "sub/bär.jpg")) + separator
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert names(photos.list_photos("-")) == ["a", "sub/bär"]


def test_stdin_may_be_asked_twice(tmp_path, monkeypatch):
    """A training lists its photos, and again those to measure on."""
    touch(tmp_path, "a.jpg", "b.jpg")
    for name in ("a", "b"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(os.fsencode(tmp_path / f"{name}.jpg"))))
        for _ in range(2):
            assert names(photos.list_photos("-")) == [name]


def test_processes_of_torchrun_would_each_read_a_part_of_stdin(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.jpg\n")))
    with pytest.raises(StclError, match=r"-: torchrun's processes share one stdin, .*; write the list to a file"):
        photos.list_photos("-")


def test_one_photo(tmp_path):
    touch(tmp_path, "a.jpg")
    assert names(photos.list_photos(tmp_path / "a.jpg")) == ["a"]


def test_a_list_of_nothing(tmp_path):
    (tmp_path / "list.txt").write_text("none.jpg\n" + "x" * 5000)
    with pytest.raises(StclError, match=r"list.txt: holds no photo \(none.jpg is not there\)"):
        photos.list_photos(tmp_path / "list.txt")


@pytest.mark.parametrize("lines", ["a\nsub/b.jpg\nnone", "\ufeffa 1\r\n\r\nsub/b  -1\r\nnone -1\r\n", "a.jpg\nb\nnone"])
def test_list_file(tmp_path, lines):
    touch(tmp_path, "p/a.jpg", "p/sub/b.jpg", "p/c.jpg")
    (tmp_path / "train.txt").write_text(lines)
    listing = photos.list_photos(tmp_path / "p", tmp_path / "train.txt")
    assert names(listing) == ["a", "sub/b"]
    ((name, reason),) = listing.missing
    assert name == "none"
    assert "train.txt" in reason


def test_list_file_with_a_name_that_looks_like_two_columns(tmp_path):
    touch(tmp_path, "p/a 1.jpg", "p/a.jpg")
    (tmp_path / "train.txt").write_text("a 1\n")
    assert names(photos.list_photos(tmp_path / "p", tmp_path / "train.txt")) == ["a 1"]


def test_list_file_whose_names_all_look_like_two_columns(tmp_path):
    touch(tmp_path, "p/cat 0.jpg", "p/cat 1.jpg", "p/cat.jpg")
    (tmp_path / "train.txt").write_text("cat 0\ncat 1\ncat -1\n")
    listing = photos.list_photos(tmp_path / "p", tmp_path / "train.txt")
    assert names(listing) == ["cat 0", "cat 1"]
    assert [name for name, _ in listing.missing] == ["cat -1"]


@pytest.mark.parametrize(("content", "reason"), [("x\ny", "its first line is 'x'"), ("", "it is empty")])
def test_list_file_that_fits_nothing(tmp_path, content, reason):
    touch(tmp_path, "p/a.jpg")
    (tmp_path / "train.txt").write_text(content)
    with pytest.raises(StclError, match=rf"train.txt: names no photo of .*{reason}"):
        photos.list_photos(tmp_path / "p", tmp_path / "train.txt")
