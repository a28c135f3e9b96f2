"""The whole chain on a folder with the nastiest names and kinds of files we could make."""

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from pycocotools.coco import COCO

from stcl_cli.cli import main
from stcl_cli.formats.masks import read_mask

H, W = 24, 36
NFC, NFD = (unicodedata.normalize(form, "bär") for form in ("NFC", "NFD"))
LONGEST = "l" * 243  # with '.safetensors' as long as a name can be
TOO_LONG = "m" * 250  # fits as a photo and as a mask, but not as a CAM file
NO_TEXT = ("line\nbreak", "tab\there", os.fsdecode(b"latin\xe4"))  # the text files of other tools cannot hold these

# fmt: off
NAMES = (
    "a b", " leading", "trailing ", f"{NFC} 1", f"{NFD} 2", f"both/{NFC}", f"both/{NFD}", "🐈 日本語", "quo\"te's",
    "-dash", "--help", "~", "100%", "$HOME `id`", "semi;colon|pipe", "comma,", "wild*?[x]", "[bold]x", ":smile:",
    "back\\slash", "a.b.c", "CON", "classes", "config.json", "a", "one/a", "two/a", "x.jpg/inside", "images/labels",
    "1 -1", LONGEST, TOO_LONG, "/".join(["d" * 60] * 10 + ["deep"]), *NO_TEXT,
)
# fmt: on
BROKEN = {
    "broken link.jpg": "is a broken link",
    "fifo.jpg": "is not a regular file",
    "cut.jpg": "image file is truncated",
    "cut.png": "image file is truncated",
    "empty": "is empty (0 bytes)",
    "text": "is not an image",
}
UNOPENED = ("broken link.jpg", "fifo.jpg")  # known to be no photos without opening a file


def picture(height=H, width=W):
    rng = np.random.default_rng(height * 1000 + width)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def kinds():
    """{file name: (image, how to save it, upright size)} of every kind of photo."""
    rgb, size = picture(), (H, W)
    deep = Image.fromarray(np.random.default_rng(1).integers(0, 65536, size).astype(np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    alpha = rgb.convert("RGBA")
    alpha.putalpha(128)
    return {
        "grey.png": (rgb.convert("L"), {}, size),
        "bit.png": (rgb.convert("1"), {}, size),
        "palette.png": (rgb.quantize(20), {}, size),
        "see-through palette.png": (rgb.quantize(20), {"transparency": 3}, size),
        "rgba.png": (alpha, {}, size),
        "la.png": (rgb.convert("LA"), {}, size),
        "cmyk.jpg": (rgb.convert("CMYK"), {}, size),
        "progressive.jpg": (rgb, {"progressive": True}, size),
        "deep.png": (deep, {}, size),
        "deep.tiff": (deep, {}, size),
        "rgb.tif": (rgb, {}, size),
        "web.webp": (rgb, {}, size),
        "map.bmp": (rgb, {}, size),
        "UPPER.JPG": (rgb, {"format": "JPEG"}, size),
        "Mixed.JpEg": (rgb, {"format": "JPEG"}, size),
        "a.png": (picture(10, 20), {}, (10, 20)),  # beside a.jpg
        "png inside.jpg": (rgb, {"format": "PNG"}, size),
        "turned.jpg": (rgb, {"exif": turned}, size[::-1]),
        "turned.webp": (rgb, {"exif": turned}, size[::-1]),
        "turned.tiff": (rgb, {"exif": turned}, size[::-1]),
        "turned.png": (rgb, {"exif": turned}, size[::-1]),
        "dot.png": (picture(1, 1), {}, (1, 1)),
        "column.png": (picture(300, 1), {}, (300, 1)),
        "row.png": (picture(1, 300), {}, (1, 300)),
        "very wide.png": (picture(10, 20_000), {}, (10, 20_000)),
        "very tall.jpg": (picture(20_000, 10), {}, (20_000, 10)),
    }


def make_folder(root):
    """The photos, and what else lies about. Returns {photo name: upright size}."""
    files = {f"{name}.jpg": (picture(), {}, (H, W)) for name in NAMES} | kinds()
    for name, (image, options, _) in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, **options)
    for name in ("cut.jpg", "cut.png"):
        picture().save(root / name)
        whole = (root / name).read_bytes()
        (root / name).write_bytes(whole[: len(whole) // 2])
    (root / "empty.jpg").touch()
    (root / "text.jpg").write_text("<html>404</html>")
    os.mkfifo(root / "fifo.jpg")
    (root / "broken link.jpg").symlink_to("nowhere.jpg")
    (root / "circle").symlink_to(".")
    (root / ".git").mkdir()
    for name in (".hidden.jpg", "._a.jpg", ".git/x.jpg", "Thumbs.db", "noext"):
        (root / name).write_bytes(b"x")
    shared = {name.rpartition(".")[0] for name in ("a.png", "cut.jpg", "deep.png", "turned.png")}
    stems = {name: name.rpartition(".")[0] for name in files}
    return {name if stems[name] in shared else stems[name]: size for name, (*_, size) in files.items()}


class Chain:
    """Every command's exit code, items and failed.jsonl."""

    def __init__(self, root):
        self.sizes = make_folder(root / "photos")
        names = sorted([*self.sizes, *(name for name in BROKEN if name not in UNOPENED)])
        shows = {name: ["cat", "Bär"][number % 2 :] for number, name in enumerate(names)}
        (root / "labels.json").write_text(json.dumps(shows))
        self.codes, self.items, self.failed = {}, {}, {}
        tiny = ["--device", "cpu", "--iterations", "2", "--batch-size", "2", "--crop-size", "32"]
        labels = ["--labels", "labels.json"]
        listed = b"\0".join(os.fsencode(path) for path in Path("photos").rglob("*.*") if path.is_file())
        self.run("train", "photos", *labels, "-o", "RUN", "--backbone", "stcl_tiny", "--no-pretrained", *tiny)
        self.run("cam", "photos", "-m", "RUN", *labels, "-o", "CAMS", "--scales", "1", "--json")
        self.run("refine", "CAMS", "--images", "photos", "-o", "MASKS", "--overlays", "LOOK", "--json")
        self.run("segtrain", "photos", "--masks", "MASKS", "-o", "SEG", "--init", "RUN", *tiny)
        self.run("predict", "photos", "-m", "SEG", "-o", "PRED", "--no-flip", "--json")
        self.run("predict", "-", "-m", "SEG", "-o", "LISTED", "--no-flip", "--json", stdin=listed)
        self.run("eval", "PRED", "--truth", "MASKS")
        for kind in ("coco", "yolo", "ultralytics-semantic", "cvat", "voc", "npy"):
            self.run("export", "PRED", "--to", kind, "--images", "photos", "-o", kind, "--json", key=kind)

    def run(self, command, *arguments, key=None, stdin=None):
        result = CliRunner().invoke(main, [command, *arguments], input=stdin, catch_exceptions=False)
        output = arguments[arguments.index("-o") + 1] if "-o" in arguments else None
        key = key or output or command
        self.codes[key] = result.exit_code
        self.items[key] = [json.loads(line) for line in result.stdout_bytes.splitlines()]
        failed = Path(output or ".", "failed.jsonl")
        records = map(json.loads, failed.read_bytes().splitlines()) if failed.exists() else ()
        self.failed[key] = {record["image"]: record["reason"] for record in records}


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    root = tmp_path_factory.mktemp("nasty")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        yield Chain(root)


def test_exit_codes(chain):
    assert {key for key, code in chain.codes.items() if code != 3} == {"eval"}
    assert chain.codes["eval"] == 0


@pytest.mark.parametrize("key", ["CAMS", "PRED"])
def test_what_is_skipped_is_named_with_the_reason(chain, key):
    reasons = dict(chain.failed[key])
    too_long = reasons.pop(TOO_LONG, "")
    assert ("File name too long); shorten the photo's name" in too_long) is (key == "CAMS")
    assert reasons.keys() == BROKEN.keys()
    assert all(part in reasons[name] for name, part in BROKEN.items())


@pytest.mark.parametrize(("key", "lacks"), [("CAMS", {TOO_LONG}), ("MASKS", {TOO_LONG}), ("PRED", set())])
def test_all_else_is_done(chain, key, lacks):
    assert {item["image"] for item in chain.items[key]} == chain.sizes.keys() - lacks


def test_training_and_refinement_skip_only_what_they_met(chain):
    assert chain.failed["RUN"].keys() <= BROKEN.keys()
    for key in ("MASKS", "SEG"):
        assert chain.failed[key].keys() == set(UNOPENED)


@pytest.mark.parametrize("key", ["MASKS", "PRED"])
def test_every_mask_is_of_the_upright_photo_s_size(chain, key):
    for item in chain.items[key]:
        assert read_mask(item["output"]).shape == chain.sizes[item["image"]], item["image"]


def test_every_output_is_called_after_its_photo(chain):
    for key, suffix in {"CAMS": ".safetensors", "MASKS": ".png", "PRED": ".png"}.items():
        found = {path.relative_to(key).as_posix() for path in Path(key).rglob(f"*{suffix}")}
        assert found == {item["image"] + suffix for item in chain.items[key]}
    looks = {path.relative_to("LOOK").as_posix() for path in Path("LOOK").rglob("*.jpg") if path.is_file()}
    assert looks == {item["image"] + ".jpg" for item in chain.items["MASKS"]}


def test_a_list_on_stdin_gives_the_same_masks(chain):
    assert len(chain.items["LISTED"]) == len(chain.items["PRED"])
    for item in chain.items["PRED"]:
        listed = Path("LISTED", "photos", f"{item['image']}.png")
        assert listed.read_bytes() == Path(item["output"]).read_bytes()


def test_eval_measures_all_that_both_have(chain):
    (summary,) = chain.items["eval"]
    assert summary["images"] == len(chain.items["MASKS"])


@pytest.mark.parametrize("kind", ["coco", "yolo", "ultralytics-semantic", "cvat", "voc", "npy"])
def test_exports_leave_out_names_that_text_files_cannot_hold(chain, kind):
    reasons = chain.failed[kind]
    assert reasons.keys() == {*UNOPENED, *NO_TEXT}
    assert all("its name has a control character or is no Unicode" in reasons[name] for name in NO_TEXT)


def test_exports_hold_the_others(chain):
    names = chain.sizes.keys() - set(NO_TEXT)
    coco = COCO("coco/annotations/instances_train.json")
    sizes = {image["file_name"]: (image["height"], image["width"]) for image in coco.imgs.values()}
    assert len(sizes) == len(names)
    assert all(Path("photos", name).is_file() for name in sizes)
    for name in names:
        predicted = read_mask(Path("PRED", f"{name}.png"))
        assert np.array_equal(read_mask(Path("voc", "SegmentationClass", f"{name}.png")), predicted)
        assert np.array_equal(np.load(Path("npy", f"{name}.npy")), predicted)
    assert set(Path("voc/ImageSets/Segmentation/train.txt").read_text().split("\n")) == {*names, ""}
