import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from stcl_cli.data import pixels
from stcl_cli.errors import PhotoError

NOISE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
SMOOTH = np.stack(np.meshgrid(np.arange(200), np.arange(120), [50]), -1).squeeze().astype(np.uint8)  # (120, 200, 3)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff"])
def test_lossless_formats(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(NOISE).save(path)
    photo = pixels.read_photo(path)
    assert photo.flags.writeable
    assert np.array_equal(photo, NOISE)
    assert pixels.photo_size(path) == (12, 20)


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
    photo = pixels.read_photo(path)
    assert photo.shape == expected.shape
    assert np.abs(photo - expected).mean() < 4
    assert pixels.photo_size(path) == expected.shape[:2]
    reduced = pixels.read_photo(path, max_side=40)
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
    assert pixels.photo_size(tmp_path / "x.png") == (20, 12)
    assert np.array_equal(pixels.read_photo(tmp_path / "x.png"), np.rot90(NOISE, -1))


def test_size_without_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for suffix in ("jpg", "png", "tiff", "bmp"):
        Image.fromarray(NOISE).save(tmp_path / f"x.{suffix}")
        assert pixels.photo_size(tmp_path / f"x.{suffix}") == (12, 20)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_no_reason_to_refuse(tmp_path):
    Image.fromarray(SMOOTH).save(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(range(40)))
    assert pixels.read_photo(tmp_path / "x.jpg").shape == (120, 200, 3)


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
        assert np.array_equal(pixels.read_photo(tmp_path / name), expected), name


def test_palette(tmp_path):
    image = Image.fromarray(NOISE).quantize(200)
    for name in ("x.png", "x.gif"):
        image.save(tmp_path / name)
        assert np.array_equal(pixels.read_photo(tmp_path / name), np.asarray(image.convert("RGB")))


def test_cmyk_jpeg(tmp_path):
    Image.fromarray(SMOOTH).convert("CMYK").save(tmp_path / "x.jpg", quality=95)
    assert np.abs(pixels.read_photo(tmp_path / "x.jpg").astype(int) - SMOOTH).mean() < 3


def test_transparency_lies_over_white(tmp_path):
    alpha = np.array([[0, 128, 255]], np.uint8)
    rgba = np.dstack([np.full((1, 3, 3), 100, np.uint8), alpha])
    over_white = np.round(100 * (alpha / 255) + 255 * (1 - alpha / 255)).astype(int)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(rgba[:, :, 2:]).save(tmp_path / "la.png")
    for name in ("rgba.png", "la.png"):
        photo = pixels.read_photo(tmp_path / name)
        assert np.abs(photo - over_white[:, :, None]).max() <= 1
    for mode in ("P", "L", "RGB"):
        image = Image.new(mode, (3, 1), 0)
        image.save(tmp_path / f"{mode}.png", transparency=0 if mode != "RGB" else (0, 0, 0))
        assert (pixels.read_photo(tmp_path / f"{mode}.png") == 255).all()


def test_pixels_without_colours(tmp_path):
    Image.fromarray(np.full((2, 2), 70_000, np.int32)).save(tmp_path / "i.tiff")
    Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(tmp_path / "f.tiff")
    deep = Image.fromarray(np.full((2, 2), 0xFFFD, np.uint16))
    deep.save(tmp_path / "signed.tiff", tiffinfo={339: 2})  # -3 in 16 bits
    beyond = "values below 0 or above 65,535; scale them"
    cases = {"i.tiff": beyond, "signed.tiff": beyond, "f.tiff": "floating-point values; save it"}
    for name, what in cases.items():
        with pytest.raises(PhotoError, match=rf"{name}: has {what}"):
            pixels.read_photo(tmp_path / name)


def test_a_tiff_that_pillow_cannot_read(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "x.tiff", tiffinfo={339: (3, 3, 3)})  # colours in floating point
    with pytest.raises(PhotoError, match=r"x.tiff: is not an image \(.*\), or of a rare kind, or its header"):
        pixels.read_photo(tmp_path / "x.tiff")


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp"])
def test_files_of_several_frames(tmp_path, suffix):
    frames = [Image.fromarray(NOISE), Image.fromarray(NOISE[::-1])]
    frames[0].save(tmp_path / f"one.{suffix}", lossless=True)
    frames[0].save(tmp_path / f"two.{suffix}", lossless=True, save_all=True, append_images=frames[1:])
    assert not pixels.has_frames(tmp_path / f"one.{suffix}")
    assert pixels.has_frames(tmp_path / f"two.{suffix}")
    assert np.array_equal(pixels.read_photo(tmp_path / f"two.{suffix}"), pixels.read_photo(tmp_path / f"one.{suffix}"))


def test_the_preview_in_a_cameras_jpeg_is_no_frame(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "x.mpo", save_all=True, append_images=[Image.fromarray(NOISE)])
    (tmp_path / "x.mpo").rename(tmp_path / "x.jpg")
    assert not pixels.has_frames(tmp_path / "x.jpg")


@pytest.mark.parametrize("read", [pixels.read_photo, pixels.photo_size])
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
        pixels.read_photo(tmp_path / "x.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize(("size", "max_side", "expected"), [((120, 200), 50, (30, 50)), ((200, 120), 99, (99, 59))])
def test_max_side_is_an_area_average(tmp_path, suffix, size, max_side, expected):
    image = SMOOTH if size == (120, 200) else SMOOTH.transpose(1, 0, 2)
    Image.fromarray(image).save(tmp_path / f"x.{suffix}", quality=95)
    photo = pixels.read_photo(tmp_path / f"x.{suffix}", max_side)
    assert photo.shape == (*expected, 3)
    area = cv2.resize(image, expected[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(photo.astype(int) - area).mean() < 2.5


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "I;16"])
@pytest.mark.parametrize("strip", [1, 5000, 10**9])
def test_strips_of_a_much_larger_photo_give_the_area_average(tmp_path, monkeypatch, mode, strip):
    monkeypatch.setattr(pixels, "_STRIP", strip)
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
    reduced = pixels.read_photo(tmp_path / "x.tiff", 23)
    whole = pixels.read_photo(tmp_path / "x.tiff")
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
        from stcl_cli.data.pixels import read_photo
        peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1])  # KiB
        before = peak()
        assert read_photo(sys.argv[1], 512).shape == (512, 512, 3)
        print(peak() - before)"""
    result = subprocess.run([sys.executable, "-c", code, tmp_path / "x.png"], capture_output=True, text=True)
    assert 144e6 < 1024 * int(result.stdout) < 1.5 * 144e6


def test_max_side_never_enlarges_nor_vanishes(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "x.png")
    assert pixels.read_photo(tmp_path / "x.png", 20).shape == (12, 20, 3)
    assert np.array_equal(pixels.read_photo(tmp_path / "x.png", 5000), NOISE)
    Image.new("RGB", (3000, 1)).save(tmp_path / "thin.jpg")
    assert pixels.read_photo(tmp_path / "thin.jpg", 100).shape == (1, 100, 3)
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.jpg")
    assert pixels.read_photo(tmp_path / "dot.jpg", 100).shape == (1, 1, 3)
