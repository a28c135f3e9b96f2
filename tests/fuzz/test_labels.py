"""Labels in every format: files of a folder that is otherwise right, changed, and files made of a format's words."""

from itertools import islice
from pathlib import Path

import inputs
import label_files
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from watching import INPUTS, attempt, fuzz, say_the_count

from stcl_cli.data.labels import READERS, read_labels


def text_files(folder):
    """What can be changed: all files but photos."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and "images" not in p.parts and p.suffix != ".jpg")


@pytest.mark.parametrize("name", label_files.WRITERS)
def test_labels(tmp_path_factory, name):
    """A file of a folder that is otherwise right is changed."""
    root = tmp_path_factory.mktemp("labels")
    write, kind, tables = label_files.WRITERS[name]
    shows = dict(islice(tables[-1]().items(), 6))
    label_files.draw(root / "images", shows)
    path = write(root, shows)
    read_labels(path)  # so that all is imported
    files = text_files(root)
    seeds = {file: file.read_bytes() for file in files} or {path / "x.txt": b"a\n"}

    @fuzz
    @given(st.data())
    def run(data):
        file = data.draw(st.sampled_from(sorted(seeds)))
        file.write_bytes(data.draw(inputs.variants([seeds[file]])))
        format = data.draw(st.sampled_from(["auto", kind]))
        classes = data.draw(st.sampled_from([None, ("cat", "Bär")]))
        attempt(f"labels: {name}", lambda: read_labels(path, classes, format))
        file.write_bytes(seeds[file])

    run()


STRUCTURED = {
    "json": (inputs.JSON, ("auto", "json", "coco", "label-studio")),
    "jsonl": (inputs.JSON_LINES, ("auto", "json")),
    "xml": (inputs.XML, ("auto", "cvat")),
    "csv": (inputs.CSV, ("auto", "csv")),
    "yaml": (st.one_of(inputs.JSON, inputs.variants([b"names: [a, b]\ntrain: .\n"])), ("auto", "yolo")),
    "npy": (inputs.PICKLES, ("auto", "npy")),
}


@pytest.mark.parametrize("suffix", STRUCTURED)
def test_labels_made_of_words(tmp_path_factory, suffix):
    path = tmp_path_factory.mktemp("labels") / f"labels.{suffix}"
    contents, formats = STRUCTURED[suffix]
    np.save(path.with_suffix(".npy"), {"a": np.ones(2)}, allow_pickle=True)
    head = path.with_suffix(".npy").read_bytes()[:128] if suffix == "npy" else b""
    path.write_bytes(head)
    for format in READERS:
        attempt_quietly(path, format)

    @fuzz
    @given(contents, st.sampled_from(formats))
    def run(content, format):
        path.write_bytes(head + content)
        attempt(f"labels made of words: {suffix}", lambda: read_labels(path, None, format))

    run()


def attempt_quietly(path, format):
    """So that all is imported."""
    try:
        read_labels(path, None, format)
    except Exception:
        return


@pytest.mark.parametrize("format", ["voc", "labelme"])
def test_folders_of_files_made_of_words(tmp_path_factory, format):
    path = tmp_path_factory.mktemp("labels")
    contents, suffix = {"voc": (inputs.XML, "xml"), "labelme": (inputs.JSON, "json")}[format]

    @fuzz
    @given(st.lists(contents, min_size=1, max_size=3))
    def run(files):
        for number, content in enumerate(files):
            Path(path, f"{number}.{suffix}").write_bytes(content)
        attempt(f"labels made of words: {format}", lambda: read_labels(path, None, format))

    run()


def test_the_count(capsys):
    """The last of the file."""
    say_the_count(capsys, least=30 * INPUTS)
