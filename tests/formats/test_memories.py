import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from stcl_cli.errors import StclError
from stcl_cli.formats.memories import read_memories, write_photo_names


def a_run(folder, photo, quality):
    (folder / "checkpoints").mkdir()
    tensors = {"model.memory.photo": np.array(photo), "model.memory.quality": np.array(quality, np.float32)}
    save_file(tensors, folder / "checkpoints" / "last.safetensors")
    return folder


def test_each_class_comes_with_its_photos_best_first(tmp_path):
    a_run(tmp_path, [[1, -1, 0], [-1, -1, -1]], [[0.25, 0, 0.75], [0, 0, 0]])
    write_photo_names(tmp_path, ["bär 1", "a/b"])
    background, first = read_memories(tmp_path)
    assert background.photos == ["bär 1", "a/b"]
    assert background.qualities == [0.75, 0.25]
    assert first.photos == []


def test_a_run_without_a_memory_or_without_anything_has_none(tmp_path):
    assert read_memories(tmp_path) == []
    write_photo_names(tmp_path, ["a"])
    (tmp_path / "checkpoints").mkdir()
    save_file({"model.x": np.zeros(1)}, tmp_path / "checkpoints" / "last.safetensors")
    assert read_memories(tmp_path) == []


@pytest.mark.parametrize("names", [["a"], {"a": 1}, 3])
def test_a_list_of_other_photos_is_refused(tmp_path, names):
    a_run(tmp_path, [[1]], [[0.5]])
    (tmp_path / "photos.json").write_text(json.dumps(names))
    with pytest.raises(StclError, match="does not fit photos"):
        read_memories(tmp_path)


def test_a_checkpoint_cut_short_is_refused(tmp_path):
    path = a_run(tmp_path, [[0]], [[0.5]]) / "checkpoints" / "last.safetensors"
    write_photo_names(tmp_path, ["a"])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StclError, match="damaged"):
        read_memories(tmp_path)
