import numpy as np

from stcl_cli.data.labels import read_labels
from stcl_cli.data.photos import list_photos
from stcl_cli.data.pixels import read_photo
from stcl_cli.data.textures import PICTURES, write_textures
from stcl_cli.formats.cams import read_cam
from stcl_cli.formats.masks import read_mask


def test_a_set_that_every_stage_can_read(tmp_path):
    classes = ("a", "b", "c")
    write_textures(tmp_path, PICTURES + 2, 40, classes)
    photos, skipped = list_photos(str(tmp_path / "photos"))
    assert (len(photos), skipped) == (PICTURES + 2, [])
    labels = read_labels(str(tmp_path / "labels.csv"), classes).by_name
    pictures = [read_photo(photo.path) for photo in photos]
    assert len({picture.tobytes() for picture in pictures}) == PICTURES
    assert np.array_equal(pictures[0], pictures[PICTURES])
    for number, photo in enumerate(photos):
        label = number % PICTURES % 3
        assert pictures[number].shape == (40, 40, 3)
        assert set(np.unique(read_mask(tmp_path / "masks" / f"{photo.name}.png"))) == {0, label + 1}
        cam = read_cam(tmp_path / "cams" / f"{photo.name}.safetensors")
        assert (cam.labels, cam.size) == ((label,), (40, 40))
        assert list(labels[photo.name]) == [label]
