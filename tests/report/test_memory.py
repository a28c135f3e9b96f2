import numpy as np
from PIL import Image

from stcl_cli.data.photos import list_photos
from stcl_cli.formats.memories import Memory
from stcl_cli.report.memory import PHOTOS, draw_memories


def some_photos(folder, count):
    for number in range(count):
        Image.fromarray(np.full((8, 12, 3), 20 * number, np.uint8)).save(folder / f"p{number}.png")
    return {photo.name: photo for photo in list_photos(folder).photos}


def test_a_photo_is_shown_once_with_its_best_quality_and_gone_ones_are_passed_over(tmp_path):
    photos = some_photos(tmp_path, 3)
    memories = [Memory([], []), Memory(["p1", "gone", "p0", "p1"], [0.9, 0.8, 0.7, 0.2])]
    (only,), reasons = draw_memories(memories, ("dog",), photos)
    assert only.name == "dog"
    assert [picture.caption for picture in only.pictures] == ["0.90 p1", "0.70 p0"]
    assert only.fact == "4 entries of 3 photos, mean quality 0.65"
    assert all(picture.uri.startswith("data:image/jpeg;base64,") for picture in only.pictures)
    assert reasons == []


def test_no_more_photos_than_fit_and_unreadable_ones_are_named(tmp_path):
    photos = some_photos(tmp_path, PHOTOS + 3)
    photos["p0"].path.write_bytes(b"no photo")
    names = [f"p{number}" for number in range(PHOTOS + 3)]
    (only,), reasons = draw_memories([Memory(names, [1 - number / 20 for number in range(len(names))])], (), photos)
    assert only.name == "background"
    assert len(only.pictures) == PHOTOS
    assert [name for name, _ in reasons] == ["p0"]
