import json
import os
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats import files
from stcl_cli.formats.cams import CamFile, read_cam, write_cam

VOC = tuple(f"class {i}" for i in range(20))


def smooth_cam(labels=2, height=375, width=500):
    """Maps as a ViT makes them: blobs of a few patches, a value for each 16 pixels, interpolated, 0 to 1."""
    rng = np.random.default_rng(0)
    maps = []
    for _ in range(labels):
        patches = cv2.GaussianBlur(rng.random((height // 16, width // 16), dtype=np.float32), None, 1)
        maps.append(cv2.normalize(cv2.resize(patches, (width, height)), None, 0, 1, cv2.NORM_MINMAX))
    return np.clip(np.stack(maps), 0, 1)


@pytest.fixture
def cam():
    return CamFile(VOC, (3, 14), smooth_cam(), (375, 500), "predicted", (0.9, 0.25))


def test_round_trip(tmp_path, cam):
    path = tmp_path / "sub dir" / "bär.v1.safetensors"
    write_cam(path, cam)
    back = read_cam(path)
    for name in ("classes", "labels", "size", "source", "scores"):
        assert getattr(back, name) == getattr(cam, name)
    assert back.cam_KHW.dtype == np.float32
    assert back.cam_KHW.shape == (2, 94, 125)
    assert back.affinity_hwJ is None
    assert os.listdir(path.parent) == [path.name]


def test_affinity_round_trip(tmp_path, cam):
    affinity = np.random.default_rng(0).random((15, 17, 25), np.float32)
    write_cam(tmp_path / "x", replace(cam, affinity_hwJ=affinity))
    back = read_cam(tmp_path / "x").affinity_hwJ
    assert np.abs(back - affinity).max() <= 0.5 / 255 + 1e-6
    assert back.dtype == np.float32
    write_cam(tmp_path / "y", cam)
    added = (tmp_path / "x").stat().st_size - (tmp_path / "y").stat().st_size
    assert abs(added - affinity.size) < 200


def test_a_name_that_is_not_utf8(tmp_path, cam):
    write_cam(tmp_path / "b\udce4r.safetensors", cam)
    assert read_cam(tmp_path / "b\udce4r.safetensors").size == cam.size


def test_it_is_compact(tmp_path, cam):
    write_cam(tmp_path / "x", replace(cam, classes=tuple(f"class number {i}" for i in range(80))))
    assert (tmp_path / "x").stat().st_size < 30_000


def test_quarter_size_and_8_bits_are_close_to_the_original(tmp_path, cam):
    write_cam(tmp_path / "x", cam)
    full = read_cam(tmp_path / "x").full_size()
    assert full.shape == cam.cam_KHW.shape
    assert full.dtype == np.float32
    error = np.abs(full - cam.cam_KHW)
    assert error.mean() < 0.005
    assert error.max() < 0.05
    # what becomes of it: pixels that change sides of a threshold
    assert ((full > 0.5) != (cam.cam_KHW > 0.5)).mean() < 0.01


def test_a_small_map_is_not_enlarged_and_only_rounded(tmp_path):
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(1, 16, 16)
    write_cam(tmp_path / "x", CamFile(("cat",), (0,), values, (256, 256)))
    assert np.array_equal(read_cam(tmp_path / "x").cam_KHW, values)
    write_cam(tmp_path / "y", CamFile(("cat",), (0,), np.array([[[0.1]]]), (1, 1)))
    assert abs(read_cam(tmp_path / "y").full_size()[0, 0, 0] - 0.1) < 0.5 / 255 + 1e-6


def test_full_size_interpolates_at_pixel_centres():
    cam = CamFile(("cat",), (0,), np.array([[[0.0, 1.0]]], np.float32), (1, 4))
    assert cam.full_size().tolist() == [[[0.0, 0.25, 0.75, 1.0]]]


def test_no_label(tmp_path):
    write_cam(tmp_path / "x", CamFile(VOC, (), np.zeros((0, 94, 125), np.float32), (375, 500), "predicted"))
    back = read_cam(tmp_path / "x")
    assert back.labels == ()
    assert back.full_size().shape == (0, 375, 500)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_any_shape(tmp_path_factory, height, width, h, w):
    h, w = min(h, height), min(w, width)
    values = np.random.default_rng(0).random((1, h, w), dtype=np.float32)
    path = tmp_path_factory.getbasetemp() / "cam"
    write_cam(path, CamFile(("cat",), (0,), values, (height, width)))
    back = read_cam(path)
    assert back.full_size().shape == (1, height, width)
    assert back.cam_KHW.shape == (1, min(h, -(-height // 4)), min(w, -(-width // 4)))
    assert abs(back.cam_KHW.mean() - values.mean()) < 0.3


def test_same_bytes_in_every_process(tmp_path):
    """A resumed export must give the same files; safetensors alone shuffles its metadata."""
    code = (
        "import sys, numpy as np; from stcl_cli.formats.cams import *;"
        "cam = CamFile(('a', 'b'), (0, 1), np.ones((2, 3, 3)), (9, 9), 'given', (.1, .2), np.ones((2, 2, 1)));"
        "write_cam(sys.argv[1], cam)"
    )
    for name in ("x", "y"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"labels": (3,)}, "as many maps as labels"),
        ({"cam_KHW": np.zeros((375, 500))}, "as many maps as labels"),
        ({"labels": (14, 3)}, "ascending"),
        ({"labels": (3, 3)}, "ascending"),
        ({"labels": (3, 20)}, "labels that are classes"),
        ({"labels": (-1, 3)}, "labels that are classes"),
        ({"labels": (3, True)}, "whole numbers"),
        ({"size": (375, 499)}, "no larger than the photo"),
        ({"size": (375, 500, 3)}, "a possible size"),
        ({"size": (1 << 20, 1 << 20)}, "a possible size"),
        ({"cam_KHW": np.full((2, 3, 3), np.nan)}, r"0\.\.1"),
        ({"cam_KHW": np.full((2, 3, 3), 1.01)}, r"0\.\.1"),
        ({"cam_KHW": np.full((2, 3, 3), -0.01)}, r"0\.\.1"),
        ({"cam_KHW": np.zeros((2, 0, 3))}, "no larger than the photo"),
        ({"source": "guessed"}, "source"),
        ({"scores": (0.5,)}, "a score a label"),
        ({"affinity_hwJ": np.ones((2, 2))}, "an affinity of patches"),
        ({"affinity_hwJ": np.ones((2, 2, 0))}, "an affinity of patches"),
        ({"affinity_hwJ": np.ones((2, 2, 8))}, "an affinity to a square"),
        ({"affinity_hwJ": np.ones((2, 2, 16))}, "an affinity to a square"),
        ({"affinity_hwJ": np.full((2, 2, 1), np.nan)}, r"an affinity in 0\.\.1"),
    ],
)
def test_what_does_not_fit_is_not_written(cam, change, reason):
    with pytest.raises(ValueError, match=reason):
        replace(cam, **change)


def test_the_disk_refuses(tmp_path, cam):
    (tmp_path / "file").touch()
    with pytest.raises(StclError, match="cannot be written"):
        write_cam(tmp_path / "file" / "x", cam)


# ---- files of strangers ------------------------------------------------------------------------------------------

HEADER = {
    "format": "cam",
    "version": 1,
    "classes": ["cat"],
    "labels": [0],
    "size": [8, 8],
    "source": "given",
    "scores": [0.5],
}
MAPS = np.zeros((1, 2, 2), np.uint8)


def write_raw(path, header=HEADER, **tensors):
    metadata = {"stcl": header if isinstance(header, str) else json.dumps(header)}
    path.write_bytes(safetensors.numpy.save(tensors or {"cam": MAPS}, metadata=metadata))


def assert_refused(path, reason):
    with pytest.raises(PhotoError, match=reason) as caught:
        read_cam(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "; " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_raw_file_is_right_before_it_is_broken(tmp_path):
    write_raw(tmp_path / "x")
    assert read_cam(tmp_path / "x").classes == ("cat",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "of version 2, not 1; make it again"),
        ({"version": None}, "of version None"),
        ({"format": "checkpoint"}, "no CAM; give a folder"),
        ({"classes": []}, "names no class"),
        ({"classes": ["a\nb"]}, "control character"),
        ({"classes": "cat"}, "a list of classes"),
        ({"classes": 3}, "not a whole CAM file"),
        ({"classes": [["cat"]]}, "not a whole CAM file"),
        ({"labels": [1]}, "labels that are classes"),
        ({"labels": ["0"]}, "whole numbers"),
        ({"labels": [0, 0]}, "as many maps as labels"),
        ({"labels": None}, "not a whole CAM file"),
        ({"size": [1, 1]}, "no larger than the photo"),
        ({"size": [1e9, 1e9]}, "whole numbers"),
        ({"size": [10**9, 10**9]}, "a possible size"),
        ({"size": [8]}, "a possible size"),
        ({"source": ["given"]}, "source"),
        ({"scores": ["x"]}, "not a whole CAM file"),
        ({"crc32": "00000000"}, "the bytes it was written with"),
        ({"crc33": "00000000"}, "no fields but"),
    ],
)
def test_wrong_headers(tmp_path, change, reason):
    write_raw(tmp_path / "x", HEADER | change)
    assert_refused(tmp_path / "x", reason)


@pytest.mark.parametrize("header", ["null", "[]", "{", "[" * 100_000, "{}"])
def test_no_header(tmp_path, header):
    write_raw(tmp_path / "x", header)
    assert_refused(tmp_path / "x", "no CAM|not a whole CAM file")


def test_wrong_tensors(tmp_path):
    cases = [
        ({"cam": MAPS.astype(np.float32)}, "maps of 8 bits"),
        ({"cam": MAPS[0]}, "as many maps as labels"),
        ({"cam": MAPS, "other": MAPS}, "no tensors but cam"),
        ({"cam": MAPS, "affinity": MAPS / 2}, "an affinity of 8 bits"),
        ({"cam": MAPS, "affinity": MAPS[..., :2]}, "an affinity to a square"),
        ({"other": MAPS}, "not a whole CAM file"),
    ]
    for tensors, reason in cases:
        write_raw(tmp_path / "x", **tensors)
        assert_refused(tmp_path / "x", reason)


def test_a_file_that_may_not_be_read(tmp_path, cam, monkeypatch):
    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    write_cam(tmp_path / "x", cam)
    monkeypatch.setattr(files, "open", refuse, raising=False)
    with pytest.raises(PhotoError, match=r"x: cannot be read \(Permission denied\); check its permissions"):
        read_cam(tmp_path / "x")


def test_files_that_are_something_else(tmp_path):
    (tmp_path / "plain").write_bytes(safetensors.numpy.save({"cam": MAPS}))
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no CAM at all")
    os.mkfifo(tmp_path / "fifo")
    assert_refused(tmp_path / "plain", "is a safetensors file, but no CAM")
    assert_refused(tmp_path / "empty", "not a whole CAM file")
    assert_refused(tmp_path / "text", "not a whole CAM file")
    for name in ("fifo", "none", "."):
        assert_refused(tmp_path / name, "no such file")


def test_cut_short_or_with_flipped_bits(tmp_path, cam):
    write_cam(tmp_path / "x", cam)
    data = (tmp_path / "x").read_bytes()
    rng = np.random.default_rng(0)
    for length in (1, 7, 8, 9, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "y").write_bytes(data[:length])
        assert_refused(tmp_path / "y", "not a whole CAM file")
    for position in [*rng.integers(0, 700, 80), *rng.integers(0, len(data), 40), len(data) - 1]:
        flipped = bytearray(data)
        flipped[position] ^= 1 << int(rng.integers(8))
        (tmp_path / "y").write_bytes(flipped)
        with pytest.raises(PhotoError) as caught:
            read_cam(tmp_path / "y")
        assert "\n" not in str(caught.value)
