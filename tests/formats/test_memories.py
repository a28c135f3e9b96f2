import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from stcl_cli.errors import StclError
from stcl_cli.formats.memories import read_memories
from stcl_cli.formats.photo_labels import write_photo_labels


def a_run(folder, photo, quality):
    (folder / "checkpoints").mkdir()
    tensors = {"model.memory.photo": np.array(photo), "model.memory.quality": np.array(quality, np.float32)}
    save_file(tensors, folder / "checkpoints" / "last.safetensors")
    return folder


def test_each_class_comes_with_its_photos_best_first(tmp_path):
    a_run(tmp_path, [[1, -1, 0], [-1, -1, -1]], [[0.25, 0, 0.75], [0, 0, 0]])
    write_photo_labels(tmp_path, {"bär 1": ["cat"], "a/b": []})
    background, first = read_memories(tmp_path)
    assert background.photos == ["bär 1", "a/b"]
    assert background.qualities == [0.75, 0.25]
    assert first.photos == []


def test_a_run_without_a_memory_or_without_anything_has_none(tmp_path):
    assert read_memories(tmp_path) == []
    write_photo_labels(tmp_path, {"a": ["cat"]})
    (tmp_path / "checkpoints").mkdir()
    save_file({"model.x": np.zeros(1)}, tmp_path / "checkpoints" / "last.safetensors")
    assert read_memories(tmp_path) == []


@pytest.mark.parametrize(
    ("labels", "message"),
    [({"a": []}, "does not fit photos"), (["a"], "does not name photos"), ({"a": 1}, "does not name"), (3, "not name")],
)
def test_a_list_of_other_photos_is_refused(tmp_path, labels, message):
    a_run(tmp_path, [[1]], [[0.5]])
    (tmp_path / "photos.json").write_text(json.dumps(labels))
    with pytest.raises(StclError, match=message):
        read_memories(tmp_path)


def test_a_checkpoint_cut_short_is_refused(tmp_path):
    path = a_run(tmp_path, [[0]], [[0.5]]) / "checkpoints" / "last.safetensors"
    write_photo_labels(tmp_path, {"a": ["cat"]})
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StclError, match="damaged"):
        read_memories(tmp_path)
