"""Every reader of files from strangers, with files that no stranger would think of.

STCL_FUZZ sets the number of inputs for each of the readers: 40, or 2,500 for 100,000 and more in all.
"""

import io
import json
import os
from itertools import islice
from pathlib import Path

import inputs
import label_files
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from watching import Counts, attempt

from stcl_cli.data.labels import READERS, read_labels
from stcl_cli.data.photos import list_photos, listed_names, photo_size, read_photo
from stcl_cli.formats.cams import CamFile, read_cam, write_cam
from stcl_cli.formats.checkpoints import open_checkpoint
from stcl_cli.formats.classes import read_classes
from stcl_cli.formats.masks import encode_mask, read_mask
from stcl_cli.formats.runs import read_config, read_jsonl
from stcl_cli.networks import load_stcl

INPUTS = int(os.environ.get("STCL_FUZZ", 40))
fuzz = settings(
    max_examples=INPUTS,
    deadline=None,
    database=None,
    derandomize="STCL_FUZZ" not in os.environ,  # in CI the same inputs every time
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


def images():
    """A small file of each kind of photo."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    grey = Image.fromarray(rng.integers(0, 3, (9, 12), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (9, 12)).astype(np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds = [
        (rgb, {"format": "JPEG", "exif": turned}), (rgb.convert("CMYK"), {"format": "JPEG"}),
        (rgb, {"format": "JPEG", "progressive": True}), (rgb, {"format": "PNG"}), (rgb.quantize(9), {"format": "PNG"}),
        (grey, {"format": "PNG", "bits": 4}), (deep, {"format": "PNG"}), (rgb, {"format": "WEBP"}),
        (rgb, {"format": "TIFF", "compression": "tiff_lzw"}), (deep, {"format": "TIFF"}), (rgb, {"format": "BMP"}),
        (rgb, {"format": "GIF"}),
    ]  # fmt: skip
    files = []
    for image, how in kinds:
        buffer = io.BytesIO()
        image.save(buffer, **how)
        files.append(buffer.getvalue())
    return files


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "x"


def give(name, file, data, *readers):
    """Write the data, and let readers have the file."""
    file.write_bytes(data)
    for reader in readers:
        attempt(name, lambda reader=reader: reader(file))


@fuzz
@given(inputs.variants(images()))
def test_photos(file, data):
    give("photos", file, data, read_photo, photo_size, lambda path: read_photo(path, 4))


@fuzz
@given(inputs.variants([*images(), encode_mask(np.arange(12, dtype=np.uint8).reshape(3, 4))]))
def test_masks(file, data):
    give("masks", file, data, read_mask)


CAM = CamFile(classes=("cat", "dog"), labels=(1,), cam_KHW=np.ones((1, 3, 4), np.float32), size=(9, 12), scores=(0.5,))


def cam_bytes(file):
    write_cam(file, CAM)
    return file.read_bytes()


@fuzz
@given(st.data())
def test_cams(file, data):
    give("CAM files", file, data.draw(inputs.variants([cam_bytes(file)])), read_cam)


CAM_HEADER = {"format": "cam", "version": 1, "classes": ["cat"], "labels": [0], "size": [8, 8], "source": "given"}
SHAPES = st.lists(st.integers(0, 5), max_size=4)


@fuzz
@given(
    inputs.altered(CAM_HEADER | {"scores": [0.5]}),
    SHAPES,
    st.sampled_from([np.uint8, np.float32, np.int64, np.bool_]),
    st.sampled_from(["cam", "affinity.index", "x"]),
)
def test_cams_of_somebody_who_knows_the_format(file, header, shape, dtype, name):
    tensors = {"cam": np.zeros((1, 2, 2), np.uint8)} | {name: np.zeros(shape, dtype)}
    give("CAM headers", file, safetensors.numpy.save(tensors, {"stcl": json.dumps(header)}), read_cam)


@pytest.fixture(scope="module")
def checkpoint(trained):
    """A small checkpoint: its header with three tensors."""
    path = trained.run / "checkpoints" / "last.safetensors"
    load_stcl(path)  # so that all is imported
    with safetensors.safe_open(path, "np") as opened:
        meta = json.loads(opened.metadata()["stcl"])
        tensors = {name: np.zeros(1, np.float32) for name in islice(sorted(opened.keys()), 3)}
    return meta, tensors


@fuzz
@given(st.data())
def test_checkpoints(file, checkpoint, data):
    meta, tensors = checkpoint
    whole = safetensors.numpy.save(tensors, {"stcl": json.dumps(meta)})
    give("checkpoints", file, data.draw(inputs.variants([whole])), lambda path: open_checkpoint(path, "train"))


@fuzz
@given(st.data())
def test_checkpoints_of_somebody_who_knows_the_format(file, checkpoint, data):
    """They lack weights, so they are refused at last, after a network was made as they say."""
    meta, tensors = checkpoint
    meta = data.draw(inputs.altered(meta))
    if isinstance(meta.get("config"), dict):
        meta["config"] = data.draw(inputs.altered(meta["config"]))
    file.write_bytes(safetensors.numpy.save(tensors, {"stcl": json.dumps(meta)}))
    attempt("checkpoint headers", lambda: load_stcl(file), may="exec")  # torch builds some of its functions from texts


TEXTS = [b"background\ncat\ndog\n", b'{"command": "cam", "stcl": "0.1", "seed": 3}', b"a.jpg\nsub/b 1.jpg 1\n"]


@fuzz
@given(st.one_of(inputs.variants(TEXTS), inputs.CSV))
def test_classes(file, data):
    give("classes.txt", file, data, read_classes)


@fuzz
@given(st.one_of(inputs.variants(TEXTS), inputs.JSON))
def test_configs(file, data):
    give("config.json", file, data, read_config, lambda path: read_config(path, "cam"))


@fuzz
@given(st.one_of(inputs.variants([b'{"iteration": 1}\n{"image": "a", "reason": "b"}\n']), inputs.JSON_LINES))
def test_json_lines(file, data):
    give("JSON lines", file, data, read_jsonl)


@fuzz
@given(st.one_of(inputs.variants(TEXTS), inputs.CSV))
def test_lists(file, data):
    photos = file.parent / "photos"
    photos.mkdir(exist_ok=True)
    (photos / "a.jpg").touch()
    give("lists", file, data, list_photos, listed_names, lambda path: list_photos(photos, path))


# ---- labels ----------------------------------------------------------------------------------------------------------


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
    with capsys.disabled():
        total, taken = Counts.inputs.total(), Counts.taken.total()
        seconds, name = Counts.slowest
        print(
            f"\n{total:,} inputs for {len(Counts.inputs)} readers, {taken:,} taken, {total - taken:,} refused; ", end=""
        )
        print(f"crashes 0, hangs 0, code executed 0; the slowest took {seconds:.1f} s ({name})")
        if INPUTS > 1000:
            print("".join(f"{count:9,}  {name}\n" for name, count in Counts.inputs.items()), end="")
    assert total >= 35 * INPUTS
