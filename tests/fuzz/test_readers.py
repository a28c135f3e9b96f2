"""Every reader of files from strangers, with files that no stranger would think of.

STCL_FUZZ sets the number of inputs for each of the readers: 40, or 2,500 for 100,000 and more in all.
"""

import io
import json
import os
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import inputs
import label_files
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from watching import Counts, attempt

from stcl_cli.config import TrainConfig
from stcl_cli.data.labels import READERS, read_labels
from stcl_cli.data.photos import list_photos, listed_names, photo_size, read_photo
from stcl_cli.engine import _Log
from stcl_cli.errors import StclError
from stcl_cli.formats.cams import CamFile, read_cam, write_cam
from stcl_cli.formats.checkpoints import open_checkpoint
from stcl_cli.formats.classes import read_classes
from stcl_cli.formats.masks import encode_mask, read_mask
from stcl_cli.formats.memories import read_memories
from stcl_cli.formats.runs import read_config, read_failures
from stcl_cli.networks import build_stcl, load_segmenter, load_stcl
from stcl_cli.report.folders import find_outputs
from stcl_cli.report.page import loss_charts
from stcl_models.backbone import BackboneError, load_backbone_weights

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


@pytest.fixture(scope="module")
def cam(file):
    write_cam(file, CAM)
    return file.read_bytes()


@fuzz
@given(st.data())
def test_cams(file, cam, data):
    give("CAM files", file, data.draw(inputs.variants([cam])), read_cam)


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


@pytest.fixture(scope="module", params=["train", "segtrain"])
def checkpoint(request, trained):
    """A small checkpoint: its stage, its header and three tensors."""
    path = (trained.run if request.param == "train" else trained.seg) / "checkpoints" / "last.safetensors"
    LOADERS[request.param](path)  # so that all is imported
    with safetensors.safe_open(path, "np") as opened:
        meta = json.loads(opened.metadata()["stcl"])
        tensors = {name: np.zeros(1, np.float32) for name in islice(sorted(opened.keys()), 3)}
    return request.param, meta, tensors


LOADERS = {"train": load_stcl, "segtrain": load_segmenter}
TORCH = ("exec",)  # torch builds some of its functions from texts


@fuzz
@given(st.data())
def test_checkpoints(file, checkpoint, data):
    stage, meta, tensors = checkpoint
    whole = safetensors.numpy.save(tensors, {"stcl": json.dumps(meta)})
    give(f"checkpoints: {stage}", file, data.draw(inputs.variants([whole])), lambda path: open_checkpoint(path, stage))


@fuzz
@given(st.data())
def test_checkpoints_of_somebody_who_knows_the_format(file, checkpoint, data):
    """They lack weights, so they are refused at last, after a network was made as they say."""
    stage, meta, tensors = checkpoint
    meta = data.draw(inputs.altered(meta))
    if isinstance(meta.get("config"), dict):
        meta["config"] = data.draw(inputs.altered(meta["config"]))
    file.write_bytes(safetensors.numpy.save(tensors, {"stcl": json.dumps(meta)}))
    attempt(f"checkpoint headers: {stage}", lambda: LOADERS[stage](file), may=TORCH)


@pytest.fixture(scope="module")
def vit():
    return build_stcl(
        TrainConfig(images="", labels="", output="", backbone="stcl_tiny", pretrained=False), 1
    ).backbone.vit


@fuzz
@given(st.data())
def test_weights(file, vit, data):
    """A file that was changed, or one with other tensors."""
    weights = {name: value.numpy() for name, value in vit.state_dict().items()}
    name = data.draw(st.one_of(st.sampled_from(sorted(weights)), st.text(max_size=8)))
    tensor = np.zeros(data.draw(SHAPES), data.draw(st.sampled_from([np.float32, np.float16, np.int64])))
    whole, other = (safetensors.numpy.save(tensors) for tensors in (weights, weights | {name: tensor}))
    file.write_bytes(data.draw(st.one_of(inputs.variants([whole]), st.just(other))))

    def load():
        try:
            load_backbone_weights(vit, "stcl_tiny", file)
        except BackboneError as error:  # as stcl_cli.networks does
            raise StclError(str(error)) from error

    attempt("weights", load)


@fuzz
@given(st.data())
def test_memories(file, data):
    """What a report reads of a checkpoint: tensors of the memory bank, and the names of its photos."""
    folder = file.parent / "memories"
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    shape, kind = data.draw(st.one_of(st.just([2, 3]), SHAPES)), data.draw(st.sampled_from([np.int64, np.float32]))
    photo = np.full(shape, data.draw(st.integers(-2, 3)), kind)
    tensors = {"model.memory.photo": photo, "model.memory.quality": np.ones(data.draw(st.sampled_from([shape, [2]])))}
    whole = safetensors.numpy.save(tensors)
    (folder / "checkpoints" / "last.safetensors").write_bytes(
        data.draw(st.one_of(st.just(whole), inputs.variants([whole])))
    )
    names = st.one_of(st.just(b'["a", "b", "c"]'), inputs.JSON, inputs.variants([b'["a", "b"]']))
    (folder / "photos.json").write_bytes(data.draw(names))
    attempt("memories", lambda: read_memories(folder))


TEXTS = [b"background\ncat\ndog\n", b'{"command": "cam", "stcl": "0.1", "seed": 3}', b"a.jpg\nsub/b 1.jpg 1\n"]


@fuzz
@given(st.one_of(inputs.variants(TEXTS), inputs.CSV))
def test_classes(file, data):
    give("classes.txt", file, data, read_classes)


@fuzz
@given(st.one_of(inputs.variants(TEXTS), inputs.JSON))
def test_configs(file, data):
    give("config.json", file, data, read_config, lambda path: read_config(path, "cam"))


LINES = b'{"iteration": 1, "loss": 0.5}\n{"iteration": 2, "val_miou": 0.1}\n{"image": "a", "reason": "b"}\n'
LOGS = st.one_of(inputs.variants([LINES]), inputs.JSON_LINES)


@fuzz
@given(LOGS)
def test_failed_jsonl(file, data):
    give("failed.jsonl", file, data, read_failures)


@fuzz
@given(LOGS)
def test_metrics_jsonl(file, data):
    """A training that goes on behind it keeps the lines up to its checkpoint."""
    log = file.with_name("metrics.jsonl")
    log.write_bytes(data)
    run = SimpleNamespace(folder=file.parent, failures=None)
    attempt("metrics.jsonl", lambda: _Log(run, 1), may=("open", "os.rename", "os.mkdir"))


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """The folder of a training."""
    folder = tmp_path_factory.mktemp("reported")
    config = b'{"command": "train", "stcl": "0"}'
    draw_report(
        folder, {"config.json": config, "classes.txt": b"cat\n", "metrics.jsonl": LINES}
    )  # so that all is imported
    return folder


@fuzz
@given(st.data())
def test_folders_that_a_report_is_about(reported, data):
    config = st.fixed_dictionaries({"command": st.sampled_from(["train", "segtrain", "cam"]), "stcl": st.just("0")})
    files = {
        "config.json": st.builds(lambda a, b: json.dumps({**b, **a}).encode(), config, inputs.OBJECTS),
        "classes.txt": st.one_of(st.just(b"cat\ndog\n"), inputs.CSV),
        "metrics.jsonl": LOGS,
        "failed.jsonl": st.one_of(st.just(b'{"image": "a", "reason": "b"}\n'), LOGS),
    }
    contents = {name: data.draw(content) for name, content in files.items()}
    attempt("folders of a report", lambda: draw_report(reported, contents), may=("open",))


def draw_report(folder, contents):
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    loss_charts(find_outputs([folder])[0].metrics)


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
        crashes, hangs, executed = (count.total() for count in (Counts.crashes, Counts.hangs, Counts.executed))
        seconds, name = Counts.slowest
        print(
            f"\n{total:,} inputs for {len(Counts.inputs)} readers, {taken:,} taken, {total - taken:,} refused; ", end=""
        )
        print(f"crashes {crashes}, hangs {hangs}, code executed {executed}; the slowest took {seconds:.1f} s ({name})")
        if INPUTS > 1000:
            columns = (Counts.inputs, Counts.taken, Counts.crashes, Counts.hangs, Counts.executed)
            print("| reader | inputs | taken | crashes | hangs | code executed |\n|---|---|---|---|---|---|")
            for name in sorted(Counts.inputs):
                print(f"| {name} | " + " | ".join(f"{column[name]:,}" for column in columns) + " |")
    assert total >= 35 * INPUTS
    assert (crashes, hangs, executed) == (0, 0, 0)
