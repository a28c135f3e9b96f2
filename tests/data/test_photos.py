import io
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from stcl_cli.data import photos
from stcl_cli.errors import PhotoError, StclError

NOISE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
SMOOTH = np.stack(np.meshgrid(np.arange(200), np.arange(120), [50]), -1).squeeze().astype(np.uint8)  # (120, 200, 3)


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def names(listing):
    return [photo.name for photo in listing.photos]


# ---- finding -----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(("content", "reason"), [("x\ny", "its first line is 'x'"), ("", "it is empty")])
def test_list_file_that_fits_nothing(tmp_path, content, reason):
    touch(tmp_path, "p/a.jpg")
    (tmp_path / "train.txt").write_text(content)
    with pytest.raises(StclError, match=rf"train.txt: names no photo of .*{reason}"):
        photos.list_photos(tmp_path / "p", tmp_path / "train.txt")


# ---- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_lossless_formats(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(NOISE).save(path)
    photo = photos.read_photo(path)
    assert photo.flags.writeable
    assert np.array_equal(photo, NOISE)
    assert photos.photo_size(path) == (12, 20)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_exif_rotation(tmp_path, suffix, orientation):
    path = tmp_path / f"x.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(SMOOTH)
    image.save(path, exif=exif)
    image.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image)).astype(int)
    photo = photos.read_photo(path)
    assert photo.shape == expected.shape
    assert np.abs(photo - expected).mean() < 4
    assert photos.photo_size(path) == expected.shape[:2]
    reduced = photos.read_photo(path, max_side=40)
    assert max(reduced.shape) == 40
    assert np.abs(reduced - cv2.resize(expected.astype(np.uint8), reduced.shape[1::-1]).astype(int)).mean() < 4


def test_png_exif_behind_the_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(NOISE).save(tmp_path / "x.png", exif=exif)
    data = (tmp_path / "x.png").read_bytes()
    start = data.index(b"eXIf") - 4
    stop = start + 12 + int.from_bytes(data[start : start + 4], "big")
    end = data.index(b"IEND") - 4
    (tmp_path / "x.png").write_bytes(data[:start] + data[stop:end] + data[start:stop] + data[end:])
    assert photos.photo_size(tmp_path / "x.png") == (20, 12)
    assert np.array_equal(photos.read_photo(tmp_path / "x.png"), np.rot90(NOISE, -1))


def test_size_without_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for suffix in ("jpg", "png", "tiff", "bmp"):
        Image.fromarray(NOISE).save(tmp_path / f"x.{suffix}")
        assert photos.photo_size(tmp_path / f"x.{suffix}") == (12, 20)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_no_reason_to_refuse(tmp_path):
    Image.fromarray(SMOOTH).save(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(range(40)))
    assert photos.read_photo(tmp_path / "x.jpg").shape == (120, 200, 3)


def test_kinds_of_pixels(tmp_path):
    grey = NOISE[:, :, 0]
    cases = {
        "grey.png": (Image.fromarray(grey), grey[:, :, None].repeat(3, 2)),
        "bit.png": (Image.fromarray(grey > 99), (grey > 99)[:, :, None].repeat(3, 2) * 255),
        "deep.png": (Image.fromarray(grey.astype(np.uint16) * 257), grey[:, :, None].repeat(3, 2)),
        "deep.tiff": (Image.fromarray(grey.astype(np.uint16) * 257), grey[:, :, None].repeat(3, 2)),
        "cmyk.tiff": (Image.fromarray(NOISE).convert("CMYK"), NOISE),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / name)
        assert np.array_equal(photos.read_photo(tmp_path / name), expected), name


def test_palette(tmp_path):
    image = Image.fromarray(NOISE).quantize(200)
    for name in ("x.png", "x.gif"):
        image.save(tmp_path / name)
        assert np.array_equal(photos.read_photo(tmp_path / name), np.asarray(image.convert("RGB")))


def test_cmyk_jpeg(tmp_path):
    Image.fromarray(SMOOTH).convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    assert np.abs(photos.read_photo(tmp_path / "x.jpg").astype(int) - SMOOTH).mean() < 3


def test_transparency_lies_over_white(tmp_path):
    alpha = np.array([[0, 128, 255]], np.uint8)
    rgba = np.dstack([np.full((1, 3, 3), 100, np.uint8), alpha])
    over_white = np.round(100 * (alpha / 255) + 255 * (1 - alpha / 255)).astype(int)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(rgba[:, :, 2:]).save(tmp_path / "la.png")
    for name in ("rgba.png", "la.png"):
        photo = photos.read_photo(tmp_path / name)
        assert np.abs(photo - over_white[:, :, None]).max() <= 1
    for mode in ("P", "L", "RGB"):
        image = Image.new(mode, (3, 1), 0)
        image.save(tmp_path / f"{mode}.png", transparency=0 if mode != "RGB" else (0, 0, 0))
        assert (photos.read_photo(tmp_path / f"{mode}.png") == 255).all()


def test_pixels_without_colours(tmp_path):
    Image.fromarray(np.full((2, 2), 70_000, np.int32)).save(tmp_path / "i.tiff")
    Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(tmp_path / "f.tiff")
    for name, what in (("i.tiff", "32-bit"), ("f.tiff", "floating-point")):
        with pytest.raises(PhotoError, match=rf"{name}: has {what} values; save it"):
            photos.read_photo(tmp_path / name)


@pytest.mark.parametrize("read", [photos.read_photo, photos.photo_size])
def test_what_is_no_photo(tmp_path, read):
    (tmp_path / "text.jpg").write_text("<html>404</html>")
    (tmp_path / "empty.jpg").touch()
    for name in ("text.jpg", "empty.jpg", "none.jpg"):
        with pytest.raises(PhotoError, match=rf"{name}: (is|cannot)"):
            read(tmp_path / name)


def test_a_truncated_photo(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "x.jpg")
    data = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(data[: len(data) - 60])
    with pytest.raises(PhotoError, match=r"x.jpg: cannot be decoded \(.*truncated"):
        photos.read_photo(tmp_path / "x.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize(("size", "max_side", "expected"), [((120, 200), 50, (30, 50)), ((200, 120), 99, (99, 59))])
def test_max_side_is_an_area_average(tmp_path, suffix, size, max_side, expected):
    image = SMOOTH if size == (120, 200) else SMOOTH.transpose(1, 0, 2)
    Image.fromarray(image).save(tmp_path / f"x.{suffix}", quality=95)
    photo = photos.read_photo(tmp_path / f"x.{suffix}", max_side)
    assert photo.shape == (*expected, 3)
    area = cv2.resize(image, expected[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(photo.astype(int) - area).mean() < 2.5


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "I;16"])
@pytest.mark.parametrize("strip", [1, 5000, 10**9])
def test_strips_of_a_much_larger_photo_give_the_area_average(tmp_path, monkeypatch, mode, strip):
    monkeypatch.setattr(photos, "_STRIP", strip)
    image = Image.fromarray(SMOOTH)
    if mode == "I;16":
        image = Image.fromarray(SMOOTH[:, :, 0].astype(np.uint16) * 257)
    elif mode == "RGBA":
        image.putalpha(Image.fromarray(SMOOTH[:, :, 1]))
    elif mode == "P":
        image = image.quantize(250)
    else:
        image = image.convert(mode)
    image.save(tmp_path / "x.tiff")
    reduced = photos.read_photo(tmp_path / "x.tiff", 23)
    whole = photos.read_photo(tmp_path / "x.tiff")
    expected = cv2.resize(whole, (23, 14), interpolation=cv2.INTER_AREA)
    assert reduced.shape == (14, 23, 3)
    assert np.abs(reduced.astype(int) - expected).max() <= 4
    assert np.abs(reduced.astype(int) - expected).mean() < 1.5


@pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel")
def test_a_large_photo_is_in_memory_once(tmp_path):
    """What 36 megapixels, 144 MB as Pillow holds them, add to the memory of a process."""
    Image.new("RGB", (6000, 6000), (9, 99, 199)).save(tmp_path / "x.png", compress_level=1)
    code = r"""if True:
        import re, sys
        from stcl_cli.data.photos import read_photo
        peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])  # KiB
        before = peak()
        assert read_photo(sys.argv[1], 512).shape == (512, 512, 3)
        print(peak() - before)"""
    result = subprocess.run([sys.executable, "-c", code, tmp_path / "x.png"], capture_output=True, text=True)
    assert 144e6 < 1024 * int(result.stdout) < 1.5 * 144e6


def test_max_side_never_enlarges_nor_vanishes(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "x.png")
    assert photos.read_photo(tmp_path / "x.png", 20).shape == (12, 20, 3)
    assert np.array_equal(photos.read_photo(tmp_path / "x.png", 5000), NOISE)
    Image.new("RGB", (3000, 1)).save(tmp_path / "thin.jpg")
    assert photos.read_photo(tmp_path / "thin.jpg", 100).shape == (1, 100, 3)
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.jpg")
    assert photos.read_photo(tmp_path / "dot.jpg", 100).shape == (1, 1, 3)
