import os

import pytest

from stcl_cli.data.scan import scan_folder
from stcl_cli.errors import StclError
from stcl_cli.formats.runs import write_config


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_links_and_circles(tmp_path):
    root = tmp_path / "photos"
    touch(root, "real/a.jpg")
    touch(tmp_path, "elsewhere/b.jpg")
    (root / "alias").symlink_to(root / "real")
    (root / "real" / "circle").symlink_to(root)
    (root / "far").symlink_to(tmp_path / "elsewhere")
    (root / "far2").symlink_to(tmp_path / "elsewhere")
    (root / "c.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    (root / "broken.jpg").symlink_to(tmp_path / "none")
    (root / "self.jpg").symlink_to(root / "self.jpg")
    os.mkfifo(root / "fifo.jpg")
    touch(root, "folder.jpg/d.jpg")
    paths, missing = scan_folder(root)
    assert sorted(paths) == ["c.jpg", "far/b.jpg", "folder.jpg/d.jpg", "real/a.jpg"]
    assert missing == [
        ("broken.jpg", "is a broken link"),
        ("fifo.jpg", "is not a regular file"),
        ("self.jpg", "is a broken link"),
    ]


def test_links_to_folders_that_are_not_there(tmp_path):
    for name in ("site A", "sub/site", "notes.txt", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(tmp_path / "not mounted" / name)
    touch(tmp_path, "README")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "to README").symlink_to("README")
    (tmp_path / "to fifo").symlink_to("fifo")
    (tmp_path / "itself").symlink_to("itself")
    assert scan_folder(tmp_path) == ([], [(name, "is a broken link") for name in ("itself", "site A", "sub/site")])


def test_output_folders_of_stcl_hold_no_photos(tmp_path):
    touch(tmp_path, "a.jpg", "masks/a.png", "theirs/b.png", "theirs/config.json")
    write_config(tmp_path / "masks", "refine", {})
    assert sorted(scan_folder(tmp_path)[0]) == ["a.jpg", "theirs/b.png"]
    write_config(tmp_path, "demo", {})  # but the folder that was asked for is searched
    assert sorted(scan_folder(tmp_path)[0]) == ["a.jpg", "theirs/b.png"]


def test_kinds_that_are_not_read_are_named(tmp_path):
    touch(tmp_path, "a.jpg", "sub/IMG 1.HEIC", "b.heic", "b.JPG", "c.avif", "d.cr2", "notes.txt")
    paths, missing = scan_folder(tmp_path)
    assert sorted(paths) == ["a.jpg", "b.JPG"]
    reason = "is of a kind that is not read; convert it to JPEG or PNG"
    assert missing == [("c.avif", reason), ("sub/IMG 1.HEIC", reason)]


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    touch(tmp_path, "a.jpg", "locked/b.jpg")
    scandir = os.scandir

    def refuse(path):  # permissions do not stop root, who may run these tests
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert scan_folder(tmp_path) == (["a.jpg"], [("locked", "cannot be read (Permission denied)")])
    with pytest.raises(StclError, match=r"locked: cannot be read \(Permission denied\)"):
        scan_folder(tmp_path / "locked")
