"""Files of strangers, and files that were damaged: one line, the right exit code, and the rest goes on."""

import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from stcl_cli.cli import main
from stcl_cli.formats.runs import read_jsonl

TINY = ["--iterations", "1", "--batch-size", "1", "--crop-size", "32", "--device", "cpu"]
TRAIN = ["train", "photos", "-o", "out", "--backbone", "stcl_tiny", "--no-pretrained", *TINY]


@pytest.fixture
def stcl(trained, tmp_path, monkeypatch):
    """Run a command in a folder with photos, RUN, SEG, CAMS and labels.csv; gives (exit code, last line on stderr)."""
    shutil.copytree(trained.photos, tmp_path / "photos")
    for name, path in {"RUN": trained.run, "SEG": trained.seg, "TRUTH": trained.root / "truth"}.items():
        shutil.copytree(path, tmp_path / name)
    shutil.copy(trained.root / "labels.csv", tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        lines = result.stderr.splitlines()
        assert "Traceback" not in result.stderr
        return result.exit_code, lines[-1] if lines else ""

    return run


def refused(ended, *words):
    """Exit code 1 and one line with these words, which ends in a cure."""
    code, line = ended
    assert code == 1, line
    assert line.startswith("stcl: ")
    assert all(word in line for word in words), line
    assert "; " in line
    assert len(line) < 500


# ---- checkpoints -----------------------------------------------------------------------------------------------------

WEIGHT = "model.classifier.weight"
CHECKPOINT = "RUN/checkpoints/last.safetensors"


def rewrite(path, change):
    """Write the checkpoint anew with other metadata or tensors, as somebody would who knows how."""
    with safe_open(path, "pt") as file:
        meta = json.loads(file.metadata()["stcl"])
    tensors = load_file(path)
    del meta["crc32"]
    change(meta, tensors)
    save_file(tensors, path, {"stcl": json.dumps(meta)})


def test_a_checkpoint_cut_short_or_with_flipped_bits(stcl):
    assert stcl(*TRAIN, "--labels", "labels.csv")[0] == 0
    path = Path("out/checkpoints/last.safetensors")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    places = [*rng.integers(header, size=12), *rng.integers(header, len(whole), 12), len(whole) - 1]
    damaged = [whole[:length] for length in (0, 7, 8, header - 1, header, len(whole) // 2, len(whole) - 1)]
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        # `cam` reads the network, and `train --resume` the optimiser, too
        ended = stcl("cam", "photos", "-m", "out", "-o", "CAMS", "--device", "cpu")
        if ended[0] == 0:
            shutil.rmtree("CAMS")
            ended = stcl(*TRAIN, "--labels", "labels.csv", "--resume")
        refused(ended, "out/checkpoints/last.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda meta, tensors: meta.update(format=2), "install the stcl that wrote it"),
        (lambda meta, tensors: meta["config"].update(dropout=0.5), "another version of stcl"),
        (lambda meta, tensors: meta.update(added=1), "not a checkpoint"),
        (lambda meta, tensors: meta.update(iteration="7"), "not a checkpoint"),
        (lambda meta, tensors: meta.update(config=[]), "not a checkpoint"),
        (lambda meta, tensors: meta.update(stage="segtrain"), "is needed"),
        (lambda meta, tensors: meta.update(classes=["cat"]), "do not fit"),
        (lambda meta, tensors: meta.update(classes=["cat", "a\nb"]), "control character"),
        (lambda meta, tensors: meta.update(classes=["cat", 3]), "not a checkpoint"),
        (lambda meta, tensors: meta["config"].update(backbone="hf-hub:stranger/net"), "addresses of networks"),
        (lambda meta, tensors: meta["config"].update(backbone="../../net"), "addresses of networks"),
        (lambda meta, tensors: meta["config"].update(backbone=7), "backbone is 7"),
        (lambda meta, tensors: meta["config"].update(max_side="x"), "max_side is 'x'"),
        (lambda meta, tensors: meta["config"].update(memory_slots=10**15), "memory"),
        (lambda meta, tensors: meta["config"].update(memory_slots=10**18), "memory"),
        (lambda meta, tensors: meta["config"].update(aux_layer=-99), "give -3 to -1"),
        (lambda meta, tensors: tensors.pop(WEIGHT), "do not fit"),
        (
            lambda meta, tensors: tensors.update({"model.classifier.weight": tensors["model.classifier.weight"][:1]}),
            "fit",
        ),
    ],
)
def test_a_checkpoint_of_a_stranger(stcl, change, words):
    rewrite(CHECKPOINT, change)
    code, line = stcl("cam", "photos", "-m", "RUN", "-o", "CAMS", "--device", "cpu")
    assert code == 1
    assert words in line
    assert not os.path.exists("CAMS")


def test_a_checkpoint_with_lists_within_lists(stcl):
    save_file(load_file(CHECKPOINT), CHECKPOINT, {"stcl": "[" * 10**5})
    refused(stcl("cam", "photos", "-m", "RUN", "-o", "CAMS", "--device", "cpu"), "not a checkpoint")


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, name: tensors.update({f"{name}.exp_avg": tensors[f"{name}.exp_avg"][:1]}),
        lambda tensors, name: tensors.pop(f"{name}.step"),
        lambda tensors, name: tensors.update({"optimizer.nothing.step": torch.zeros(())}),
        lambda tensors, name: tensors.update({"optimizer.x": torch.zeros(())}),
    ],
)
def test_the_optimiser_of_a_stranger(stcl, change):
    assert stcl(*TRAIN, "--labels", "labels.csv")[0] == 0
    path = "out/checkpoints/last.safetensors"
    rewrite(path, lambda meta, tensors: change(tensors, "optimizer.classifier.weight"))
    refused(stcl(*TRAIN, "--labels", "labels.csv", "--resume"), "last.safetensors", "optimiser")


# ---- CAM files and masks ---------------------------------------------------------------------------------------------


def test_damaged_cams_are_skipped_and_the_rest_goes_on(stcl):
    assert stcl("cam", "photos", "-m", "RUN", "-o", "CAMS", "--device", "cpu")[0] == 0
    whole = Path("CAMS/a.safetensors").read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    os.mkfifo("CAMS/fifo.safetensors")
    for content in (b"", whole[:100], whole[:-1], bytes(flipped), whole.replace(b'"version\\": 1', b'"version\\": 2')):
        Path("CAMS/a.safetensors").write_bytes(content)
        code, line = stcl("refine", "CAMS", "--images", "photos", "-o", "MASKS", "--method", "none", "--overwrite")
        assert code == 3, line
        failed = read_jsonl("MASKS/failed.jsonl")
        assert [record["image"] for record in failed] == ["a", "fifo"]
        assert "\n" not in failed[0]["reason"]
        assert len([name for name in os.listdir("MASKS") if name.endswith(".png")] + os.listdir("MASKS/sub dir")) == 2


def test_names_in_cams_and_labels_lead_nowhere(stcl, tmp_path):
    """CAMs and labels called ../x, /x and the like make nothing outside (and nothing inside) the output folder."""
    assert stcl("cam", "photos", "-m", "RUN", "-o", "CAMS", "--device", "cpu")[0] == 0
    before = sorted(tmp_path.rglob("*"))
    with open("labels.csv", "a") as file:
        file.write(f"../../x,cat\n/etc/passwd,cat\n{tmp_path}/y,cat\n..,cat\n")
    code, _ = stcl(*TRAIN, "--labels", "labels.csv")
    assert code == 3
    failed = [record["image"] for record in read_jsonl("out/failed.jsonl")]
    assert failed == ["..", "../../x", "/etc/passwd", f"{tmp_path}/y"]
    shutil.rmtree("out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "name", ["a/b", "..", "../../etc", "/", 'quo"te', "it's", "<script>alert(1)</script>", "a\\b", "$(x)"]
)
def test_class_names_are_only_words(stcl, tmp_path, name):
    before = set(tmp_path.rglob("*"))
    Path("labels.json").write_text(json.dumps({"a": [name], "sub dir/bär 01": ["cat", name], "sub dir/c.v1": ["cat"]}))
    assert stcl(*TRAIN, "--labels", "labels.json")[0] == 0
    assert sorted(Path("out/classes.txt").read_text().splitlines()[1:]) == sorted(["cat", name])
    assert stcl("cam", "photos", "-m", "out", "-o", "out/cams", "--labels", "labels.json", "--device", "cpu")[0] == 0
    outside = set(tmp_path.rglob("*")) - before - {tmp_path / "labels.json"}
    assert all(path.is_relative_to(tmp_path / "out") for path in outside)


@pytest.mark.parametrize("name", ["a\nb", "a\u2028b", "\x1b[2J", "", " ", "x\x00y"])
def test_class_names_that_would_break_a_line_are_refused(stcl, name):
    Path("labels.json").write_text(json.dumps({"a": [name, "dog"], "sub dir/c.v1": ["cat"]}))
    code, line = stcl(*TRAIN, "--labels", "labels.json")
    if name.strip():
        refused((code, line), "labels.json")
    assert code in (0, 1)


# ---- photos and label files ------------------------------------------------------------------------------------------


def test_photos_without_permission(stcl, tmp_path, tmp_path_factory):
    """As somebody who is not root: a file and a folder that may not be read."""
    os.chmod("photos/a.jpg", 0)
    os.mkdir("photos/locked")
    Image.new("RGB", (40, 40)).save("photos/locked/b.jpg")
    os.chmod("photos/locked", 0)
    child = os.fork()
    if child == 0:
        code = 99
        try:
            if os.geteuid() == 0:
                base = tmp_path_factory.getbasetemp().parent
                for folder in (tmp_path, *tmp_path.parents):
                    if folder.is_relative_to(base) and not folder.stat().st_mode & 1:
                        os.chmod(folder, 0o777)
                os.setuid(65534)
            code, _ = stcl("check", "photos", "--json")
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    os.chmod("photos/locked", 0o700)


ROWS = "image,labels\na,cat\nsub dir/bär 01,dog\nsub dir/c.v1,cat;dog\n"


@pytest.mark.parametrize(
    "content",
    [
        ROWS.encode("utf-16"),
        ROWS.encode("utf-8-sig"),
        ROWS.replace("\n", "\r\n").encode(),
        ROWS.replace("\n", "\r\n").encode("utf-16"),
        (ROWS + "\n\n").encode(),
        ROWS.encode()[:-1],
    ],
)
def test_label_files_of_all_makes_say_the_same(stcl, content):
    Path("labels.csv").write_bytes(content)
    result = CliRunner().invoke(main, ["check", "photos", "--labels", "labels.csv", "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["classes"] == {"cat": 2, "dog": 2}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latin.csv", ROWS.encode("latin-1")),
        ("cut.csv", ROWS.encode("utf-16")[:-1]),
        ("nan.csv", b"image,cat,dog\na,1,nan\n"),
        ("nan.json", b'{"a": [NaN]}'),
        ("numbers.json", b'{"a": [1, 2]}'),
        ("deep.json", b"[" * 100_000),
        ("empty.csv", b""),
        ("zeros.csv", bytes(10_000)),
        ("half.json", b'{"a": ["cat"'),
        ("entities.xml", b'<!DOCTYPE a [<!ENTITY x "y">]><annotations>&x;</annotations>'),
        (
            "code.npy",
            b"\x93NUMPY\x01\x00\x14\x00{'descr':'|O','fortran_order':False,'shape':()}cos\nsystem\n(S'id'\ntR.",
        ),
    ],
)
def test_label_files_that_cannot_be_used(stcl, name, content):
    Path(name).write_bytes(content)
    refused(stcl("check", "photos", "--labels", name), name)


def test_yaml_makes_texts_and_nothing_else(stcl, tmp_path):
    Path("tags.yaml").write_text("names: [!!python/object/apply:os.mkdir [made]]\ntrain: photos\n")
    stcl("check", "photos", "--labels", "tags.yaml")
    assert not (tmp_path / "made").exists()
