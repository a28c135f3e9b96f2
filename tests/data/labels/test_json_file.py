import json
import time

import pytest

from stcl_cli.data.labels import Labels, read_labels
from stcl_cli.data.labels.json_file import kind_of, load
from stcl_cli.errors import StclError


@pytest.fixture
def read(tmp_path):
    def read(text, name="labels.json", encoding="utf-8"):
        (tmp_path / name).write_bytes(text.encode(encoding))
        return read_labels(tmp_path / name)

    return read


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_and_line_ends(read, encoding, end):
    expected = Labels(("Bär", "cat"), {"ä.jpg": (0, 1), "b": ()})
    assert read(end.join(["{", '"ä.jpg": ["cat", "Bär"],', '"b": []', "}", ""]), encoding=encoding) == expected
    lines = ['{"image": "ä.jpg", "labels": "cat;Bär"}', "", '{"image": "b", "labels": null}', ""]
    assert read(end.join(lines), encoding=encoding) == expected
    assert read(end.join(lines), "labels", encoding=encoding) == expected  # recognised without a suffix


def test_columns_keep_their_order(read):
    labels = read('[{"id": 0, "name": "a", "dog": 1, "cat": false}, {"id": 1, "name": "b", "dog": 0, "cat": true}]')
    assert labels == Labels(("id", "dog", "cat"), {"a": (1,), "b": (0, 2)})
    assert read('{"a": {"dog": 1, "cat": 0}, "b": {"dog": 0, "cat": 1}}').by_name == {"a": (1,), "b": (0,)}


def test_a_single_line_of_json_lines(read):
    assert read('{"image": "a", "labels": ["cat"]}\n') == Labels(("cat",), {"a": (0,)})


def test_items_without_the_key_that_others_have(read):
    assert read('[{"image": "a"}, {"image": "b", "label": "cat"}]') == Labels(("cat",), {"a": (), "b": (0,)})


def test_all_keys_with_classes_add_up_and_numbers_of_classes_are_no_names(read):
    text = '[{"image": "a", "label": [{"rectanglelabels": ["dog"]}], "choice": "out"}, {"image": "b", "choice": "in"}]'
    assert read(text) == Labels(("dog", "in", "out"), {"a": (0, 2), "b": (1,)})
    assert read('[{"image": "a", "labels": ["cat"]}, {"image": "b", "label": "dog"}]').by_name == {"a": (0,), "b": (1,)}
    assert read('[{"image": "a", "class": 0, "class_name": "cat"}]') == Labels(("cat",), {"a": (0,)})


def test_addresses_of_label_studio(read):
    assert read('[{"id": 3, "image": "/data/local-files/?d=my%20a.jpg", "choice": "cat"}]').by_name == {
        "my a.jpg": (0,)
    }


def test_items_of_one_photo_add_up(read):
    assert read('[{"file": "a", "label": "cat"}, {"file": "a", "label": "dog"}]').by_name == {"a": (0, 1)}


def test_numbers_as_names_of_photos(read):
    assert read('[{"image_id": 7, "category": "cat"}]').by_name == {"7": (0,)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": ["cat"], "a": ["dog"]}', "json: an object has the key 'a' twice; put the two together"),
        ('{"a": NaN}', "json key 'a': nan is no class name"),
        ('{"a": ["cat", 3]}', "json key 'a': 3 is no class name; write names, in quotes"),
        ('[{"image": "a", "cat": NaN}]', 'json item 1: has no key "labels"'),
        ('[{"image": "a", "labels": [1, 0]}]', "json item 1: 1 is no class name"),
        ('[{"image": "a", "labels": "cat"}, 3]', "json item 2: is no object; write"),
        ('[{"labels": "cat"}]', 'json item 1: has no key "image"'),
        ('[{"image": null, "labels": "cat"}]', 'json item 1: has no key "image"'),
        ('[{"image": "a"}]', 'json item 1: has no key "labels"'),
        ("3", "json: holds neither an object nor a list"),
        ("{", "json: is not JSON"),
        ('{"a": "cat"}\n{"b": ', "json line 2: is not JSON"),
        ("[" * 100_000, "json: is not JSON"),
        ('{"a": ' * 100_000, "json: is not JSON"),
        ('{"a": ' + "9" * 5000 + "}", "json: is not JSON|json key 'a'"),
        ("[]", "json: names no photo"),
    ],
)
def test_errors(read, text, reason):
    with pytest.raises(StclError, match=rf"labels.{reason}") as caught:
        read(text)
    assert "\n" not in str(caught.value)


def test_kinds():
    assert kind_of({"images": [], "annotations": []}) == "coco"
    assert kind_of({"images": ["cat"], "b": ["dog"]}) == "json"  # a photo called images
    assert kind_of([{"data": {"image": "a"}, "annotations": []}]) == "label-studio"
    assert kind_of([{"data": 1, "image": "a"}]) == "json"


def test_outlines_are_dropped_while_reading(tmp_path):
    item = {"image_id": 1, "category_id": 2, "segmentation": [[0.5] * 1000], "id": 3}
    (tmp_path / "x.json").write_text(json.dumps({"annotations": [item]}))
    assert load(tmp_path / "x.json") == {"annotations": [{"image_id": 1, "category_id": 2}]}


def test_a_key_that_is_there_twice_among_many_is_found_at_once(tmp_path):
    """Counting each key anew took hours for a file of this size."""
    path = tmp_path / "labels.json"
    path.write_text("{" + "".join(f'"{number}": ["cat"], ' for number in range(200_000)) + '"199999": ["dog"]}')
    started = time.process_time()
    with pytest.raises(StclError, match="has the key '199999' twice"):
        load(path)
    assert time.process_time() - started < 10


def test_keys_in_several_words(tmp_path):
    (tmp_path / "labels.json").write_text('[{"File Name": "a.jpg", "Class Label": "cat"}]')
    assert read_labels(tmp_path / "labels.json", None) == Labels(("cat",), {"a.jpg": (0,)})
