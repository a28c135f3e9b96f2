import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats import masks

MASK = np.arange(256, dtype=np.uint8).reshape(8, 32)


def test_voc_palette_is_the_published_one():
    palette = masks.voc_palette()
    assert palette.shape == (256, 3)
    assert palette.dtype == np.uint8
    # aeroplane, dog, person, tvmonitor and the void border, as everybody knows them
    known = {0: (0, 0, 0), 1: (128, 0, 0), 12: (64, 0, 128), 15: (192, 128, 128), 20: (0, 64, 128)}
    assert {index: tuple(palette[index].tolist()) for index in known} == known
    assert palette[255].tolist() == [224, 224, 192]
    assert len(np.unique(palette, axis=0)) == 256


def test_round_trip_and_layout(tmp_path):
    path = tmp_path / "sub dir" / "bär.v1.png"
    masks.write_mask(path, MASK)
    assert np.array_equal(masks.read_mask(path), MASK)
    with Image.open(path) as image:
        assert image.mode == "P"
        assert np.array_equal(np.reshape(image.getpalette(), (256, 3)), masks.voc_palette())
        assert np.array_equal(np.asarray(image.convert("RGB")), masks.voc_palette()[MASK])
    assert path.read_bytes()[24:26] == b"\x08\x03"  # bit depth 8, colour type palette
    assert os.listdir(path.parent) == ["bär.v1.png"]


def test_few_classes_stay_8_bit(tmp_path):
    masks.write_mask(tmp_path / "x.png", np.ones((3, 5), np.uint8))
    assert (tmp_path / "x.png").read_bytes()[24] == 8


def test_greys_where_a_reader_wants_no_palette(tmp_path):
    masks.write_mask(tmp_path / "x.png", MASK, palette=False)
    assert np.array_equal(masks.read_mask(tmp_path / "x.png"), MASK)
    with Image.open(tmp_path / "x.png") as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), MASK)


@pytest.mark.parametrize("bad", [MASK.astype(int), MASK[None], MASK[:0]])
def test_write_refuses_what_is_no_mask(tmp_path, bad):
    with pytest.raises(ValueError, match="a mask is uint8"):
        masks.write_mask(tmp_path / "x.png", bad)


def test_write_names_the_file_it_could_not_write(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StclError, match=r"x\.png: cannot be written"):
        masks.write_mask(tmp_path / "file" / "x.png", MASK)


def test_another_palette_changes_nothing(tmp_path):
    image = Image.fromarray(MASK)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    image.save(tmp_path / "x.png")
    assert np.array_equal(masks.read_mask(tmp_path / "x.png"), MASK)


def test_greyscale_gives_indices(tmp_path):
    Image.fromarray(MASK).save(tmp_path / "l.png")
    Image.fromarray(MASK.astype(np.uint16)).save(tmp_path / "i16.png")
    Image.fromarray(MASK.astype(np.int32)).save(tmp_path / "i32.tiff")
    for name in ("l.png", "i16.png", "i32.tiff"):
        mask = masks.read_mask(tmp_path / name)
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, MASK)


def test_one_bit_gives_zero_and_one(tmp_path):
    for name in ("x.png", "x.tiff"):
        Image.fromarray(MASK > 99).save(tmp_path / name)
        assert np.array_equal(masks.read_mask(tmp_path / name), (MASK > 99).astype(np.uint8))


@pytest.mark.parametrize("colour_type", [0, 3])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_packed_bits_give_indices(tmp_path, bits, colour_type):
    """PNGs written by hand: Pillow would stretch 2- and 4-bit greyscale to 0..255."""
    mask = np.random.default_rng(0).integers(0, 2**bits, (5, 8), dtype=np.uint8)
    unpacked = np.unpackbits(mask[:, :, None], axis=2)[:, :, 8 - bits :].reshape(5, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(unpacked, axis=1))
    palette = [(b"PLTE", bytes(range(3 * 2**bits)))] if colour_type == 3 else []
    header = struct.pack(">IIBBBBB", 8, 5, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *palette, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks)
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert np.array_equal(masks.read_mask(tmp_path / "x.png"), mask)


def test_exif_rotation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(MASK).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(masks.read_mask(tmp_path / "x.png"), MASK)


def test_what_is_no_mask(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "rgb.png")
    Image.new("RGBA", (4, 3)).save(tmp_path / "rgba.png")
    Image.new("L", (4, 3)).save(tmp_path / "lossy.jpg")
    Image.fromarray(np.full((3, 4), 256, np.uint16)).save(tmp_path / "deep.png")
    Image.new("F", (4, 3)).save(tmp_path / "float.tiff")
    (tmp_path / "text.png").write_text("no image")
    for name, cure in [
        ("rgb.png", "palette or greyscale PNG"),
        ("rgba.png", "palette or greyscale PNG"),
        ("float.tiff", "palette or greyscale PNG"),
        ("lossy.jpg", "palette PNG"),
        ("deep.png", "8 bits"),
        ("text.png", "convert it"),
    ]:
        with pytest.raises(PhotoError, match=rf"{name}: .*{cure}"):
            masks.read_mask(tmp_path / name)
