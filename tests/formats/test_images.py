import io
import os

import numpy as np
import pytest
from PIL import Image

from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats import images


def load(path):
    with images.open_image(path) as image:
        image.load()
        return image.size


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "bmp", "gif"])
def test_content_counts_and_not_the_suffix(tmp_path, suffix):
    Image.new("RGB", (4, 3)).save(tmp_path / f"x.{suffix}")
    os.rename(tmp_path / f"x.{suffix}", tmp_path / "x.dat")
    assert load(tmp_path / "x.dat") == (4, 3)


def test_ghostscript_is_never_reached(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "x.eps")
    os.rename(tmp_path / "x.eps", tmp_path / "x.jpg")
    with pytest.raises(PhotoError, match=r"x\.jpg: is not an image"):
        load(tmp_path / "x.jpg")


def test_everything_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    for name, reason in [
        ("fifo", "not a regular file"),
        ("folder", "not a regular file"),
        ("empty", r"empty \(0 bytes\)"),
        ("none", "No such file"),
    ]:
        with pytest.raises(PhotoError, match=rf"{name}\.jpg: .*{reason}"):
            load(tmp_path / f"{name}.jpg")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "bmp", "gif"])
def test_cut_at_any_byte_is_one_line(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    messages = []
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        try:
            load(path)
        except PhotoError as error:
            messages.append(str(error))
    assert messages
    assert all(message.startswith(str(path)) and "\n" not in message for message in messages)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_before_decoding(tmp_path):
    side = 16_385
    Image.new("1", (side, side)).save(tmp_path / "x.png")
    with pytest.raises(PhotoError, match="268,435,456 pixels; cut it into tiles"):
        load(tmp_path / "x.png")


def test_a_photo_of_100_megapixels_opens_without_a_warning(tmp_path, recwarn):
    Image.new("1", (10_000, 10_000)).save(tmp_path / "x.png")
    with images.open_image(tmp_path / "x.png") as image:
        assert image.size == (10_000, 10_000)
    assert not recwarn.list


def test_an_error_in_the_block_names_the_file(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "x.png")
    with pytest.raises(PhotoError, match=r"x\.png: cannot be decoded \(a\\nb\)"), images.open_image(tmp_path / "x.png"):
        raise ValueError("a\nb")


def test_write_jpeg(tmp_path):
    pixels = np.full((20, 30, 3), (200, 30, 90), np.uint8)
    images.write_jpeg(tmp_path / "sub dir" / "x.jpg", pixels)
    with Image.open(tmp_path / "sub dir" / "x.jpg") as image:
        assert image.format == "JPEG"
        assert np.abs(np.asarray(image, int) - pixels).max() < 5
    assert os.listdir(tmp_path / "sub dir") == ["x.jpg"]
    with pytest.raises(StclError, match=r"y\.jpg: cannot be written"):
        images.write_jpeg(tmp_path / "sub dir" / "x.jpg" / "y.jpg", pixels)


def test_pictures_in_memory():
    pixels_HW3 = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    with Image.open(io.BytesIO(images.encode_png(pixels_HW3))) as image:
        assert np.array_equal(np.asarray(image), pixels_HW3)
    red_blue = np.zeros((8, 8, 3), np.uint8)
    red_blue[:, ::2, 0] = red_blue[:, 1::2, 2] = 255
    with Image.open(io.BytesIO(images.encode_jpeg(red_blue, 95))) as image:
        assert image.format == "JPEG"
        assert np.abs(np.asarray(image).astype(int) - red_blue).max() < 40  # columns of one pixel keep their colours
