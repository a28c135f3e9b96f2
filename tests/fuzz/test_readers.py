"""Every reader of files from strangers but those of labels, with files that no stranger would think of."""

import io
import json
from itertools import islice

import click
import inputs
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from watching import INPUTS, attempt, fuzz, say_the_count

from stcl_cli.cli import main
from stcl_cli.config import TrainConfig
from stcl_cli.data.photos import list_photos
from stcl_cli.data.pixels import photo_size, read_photo
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
from stcl_cli.training.log import TrainingLog
from stcl_models.backbone import BackboneError, load_backbone_weights


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
    st.sampled_from(["cam", "affinity", "x"]),
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
    names = st.one_of(st.just(b'{"a": [], "b": ["c"]}'), inputs.JSON, inputs.variants([b'{"a": ["b"]}']))
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


COMMANDS = ("train", "cam", "refine", "segtrain", "predict", "export", "run")


@fuzz
@given(st.data())
def test_configs_of_a_command_line(file, data):
    """What --config makes of them, up to where the command would begin."""
    command = main.commands[data.draw(st.sampled_from(COMMANDS))]
    names = st.sampled_from([parameter.name for parameter in command.params])
    values = data.draw(st.dictionaries(names, inputs.VALUES, max_size=4))
    needed = {parameter.name: "x" for parameter in command.params if parameter.required}
    file.write_text(json.dumps({"command": command.name, "stcl": "0", **needed, **values}))

    def parse():
        try:
            command.make_context(command.name, ["--config", str(file)])
        except click.UsageError as error:
            raise StclError(error.format_message()) from error

    attempt("config.json for --config", parse, may=("exec",))  # Python evaluates our own annotations so


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
    attempt("metrics.jsonl", lambda: TrainingLog(file.parent, None, 1), may=("open", "os.rename", "os.mkdir"))


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
    give("lists", file, data, list_photos, lambda path: list_photos(photos, path))


def test_the_count(capsys):
    """The last of the file, as in test_labels.py: each may have a process of its own."""
    say_the_count(capsys, least=20 * INPUTS)
