import numpy as np
import pytest
from PIL import Image

from stcl_cli.data.photos import Photo
from stcl_cli.data.pixels import read_photo
from stcl_cli.errors import PhotoError
from stcl_cli.export.photos import place_photo
from stcl_cli.export.writer import Item

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)


@pytest.fixture
def place(tmp_path):
    def run(path, **settings):
        place_photo(Item("a b", np.zeros((1, 1), np.uint8), Photo("a b", path)), tmp_path / "out", "x.v1", **settings)
        (placed,) = (tmp_path / "out").iterdir()
        return placed

    return run


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".png"])
def test_an_upright_photo_is_copied(place, tmp_path, suffix):
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(PIXELS).save(path)
    placed = place(path)
    assert placed.name == f"x.v1{suffix}"
    assert placed.read_bytes() == path.read_bytes()
    assert placed.stat().st_ino != path.stat().st_ino  # no link


@pytest.mark.parametrize(("suffix", "kind"), [(".gif", "GIF"), (".jfif", "JPEG")])
def test_what_ultralytics_passes_over_becomes_a_jpeg(place, tmp_path, suffix, kind):
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(PIXELS).save(path, kind)
    placed = place(path)
    assert placed.name == "x.v1.jpg"
    assert Image.open(placed).format == "JPEG"
    assert (placed.read_bytes() == path.read_bytes()) == (kind == "JPEG")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_a_turned_photo_becomes_upright(place, tmp_path, suffix):
    path = tmp_path / f"photo{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(path, exif=exif)
    placed = place(path)
    assert placed.name == "x.v1.jpg"
    with Image.open(placed) as image:
        assert image.size == (32, 48)
        assert image.getexif().get(0x0112, 1) == 1
        assert np.abs(np.asarray(image, int) - read_photo(path)).mean() < 8


def test_only_jpeg(place, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    placed = place(tmp_path / "photo.png", only_jpeg=True)
    with Image.open(placed) as image:
        assert (image.format, placed.name) == ("JPEG", "x.v1.jpg")
    Image.fromarray(PIXELS).save(tmp_path / "photo.JPEG")
    place(tmp_path / "photo.JPEG", only_jpeg=True)
    assert placed.read_bytes() == (tmp_path / "photo.JPEG").read_bytes()


def test_a_photo_that_goes_while_it_is_copied_is_named(place, tmp_path, monkeypatch):
    """Else the file that is written would be told as the one that cannot be read."""
    path = tmp_path / "photo.jpg"
    Image.fromarray(PIXELS).save(path)
    monkeypatch.setattr("stcl_cli.export.photos.is_turned", lambda *_: path.unlink())
    with pytest.raises(PhotoError, match=r"photo\.jpg: .*No such file"):
        place(path)


def test_no_photo(tmp_path):
    place_photo(Item("a", np.zeros((1, 1), np.uint8)), tmp_path, "a")
    (tmp_path / "broken.jpg").write_text("no photo")
    with pytest.raises(PhotoError, match=r"broken\.jpg: is not an image"):
        place_photo(Item("a", np.zeros((1, 1), np.uint8), Photo("a", tmp_path / "broken.jpg")), tmp_path, "a")
