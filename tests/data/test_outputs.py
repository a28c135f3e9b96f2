from pathlib import Path

import pytest

from stcl_cli.data.outputs import has_files, match_outputs, no_mask
from stcl_cli.data.photos import Photo
from stcl_cli.errors import StclError


@pytest.fixture
def match(tmp_path):
    def run(files, photos):
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
        found = match_outputs(tmp_path, ".png", [Photo(name, Path(f"{name}.jpg")) for name in photos])
        by_photo = {name: path.relative_to(tmp_path).as_posix() for name, path in found.by_photo.items()}
        return by_photo, [name for name, _ in found.orphans]

    return run


def test_by_name(match):
    files = ["a.png", "sub dir/bär.v1.png", "sub dir/a.png", ".stcl-1.png", "a.txt"]
    assert match(files, ["a", "sub dir/bär.v1", "b"]) == (
        {"a": "a.png", "sub dir/bär.v1": "sub dir/bär.v1.png"},
        ["sub dir/a"],
    )


def test_suffixes_in_any_case(match, tmp_path):
    assert match(["a.PNG", "b.Png", "c.png.txt"], ["a", "b", "c"]) == ({"a": "a.PNG", "b": "b.Png"}, [])
    assert has_files(tmp_path, ".png")
    assert not has_files(tmp_path, ".safetensors")


def test_names_from_find_lie_in_a_folder_too_many(match):
    files = ["data/photos/x/a.png", "data/photos/x/b.png"]
    assert match(files, ["x/a", "y/b"]) == ({"x/a": "data/photos/x/a.png"}, ["data/photos/x/b"])


def test_the_same_base_name_in_another_folder_is_another_photo(match):
    assert match(["left/0001.png", "right/0002.png"], ["right/0001", "0002"]) == ({}, ["left/0001", "right/0002"])


def test_an_exact_name_rules_out_a_lead(match):
    assert match(["x/x/a.png", "x/b.png"], ["x/b", "a", "x/a"]) == ({"x/b": "x/b.png"}, ["x/x/a"])


def test_nothing(match):
    assert match([], ["a"]) == ({}, [])


def test_a_folder_that_is_called_like_a_file_and_none_at_all(match, tmp_path):
    assert match(["a.png/b.png"], ["a", "a.png/b"]) == ({"a.png/b": "a.png/b.png"}, [])
    with pytest.raises(StclError, match="nix: is no folder; check the path"):
        match_outputs(tmp_path / "nix", ".png", [])


def test_an_orphan_is_named_with_its_path(tmp_path):
    (tmp_path / "a.png").touch()
    ((_, reason),) = match_outputs(tmp_path, ".png", []).orphans
    assert reason == f"{tmp_path / 'a.png'}: there is no photo of this name; delete it if that is gone"


def test_of_two_files_of_one_name_the_other_is_told(match, tmp_path):
    assert match(["a.png", "a.PNG", "b.Png", "b.pNG"], ["a", "b"]) == ({"a": "a.png", "b": "b.pNG"}, ["a.PNG", "b.Png"])
    reasons = [reason for _, reason in match_outputs(tmp_path, ".png", [Photo("a", Path("a.jpg"))]).orphans]
    assert reasons[0] == f"{tmp_path / 'a.PNG'}: a.png beside it is read instead"


def test_why_no_photo_has_a_mask(tmp_path):
    (tmp_path / "a.jpeg").touch()
    assert "its files are JPEGs, which blur class indices" in str(no_mask(tmp_path, "photos"))
    (tmp_path / "b.png").touch()  # of another photo
    assert "a mask is named like its photo" in str(no_mask(tmp_path, "photos"))
