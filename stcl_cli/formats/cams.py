"""CAM files: the activation maps of one photo as a compact safetensors file.

Tensors: `cam` uint8 (K, h, w), 255 = 1.0, at about a quarter of the photo's size; where it was asked for, the affinity
of patches, `affinity` uint8 (h', w', J). Metadata: one string, `stcl`, of JSON (one, because safetensors writes several
in random order).
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import safetensors
import safetensors.numpy

from stcl_cli.errors import PhotoError, StclError
from stcl_cli.formats.checksum import checksum
from stcl_cli.formats.classes import check_classes
from stcl_cli.formats.files import atomic_write, check_readable, to_json
from stcl_cli.formats.images import MAX_PIXELS
from stcl_cli.runtime.watch import reading
from stcl_cli.strips import resized_rows
from stcl_cli.wording import shown

FORMAT, VERSION = "cam", 1
_FIELDS = {"format", "version", "classes", "labels", "size", "source", "scores", "crc32"}
CAM_STRIDE = 4  # kept at a quarter of the photo: a ViT's CAM has a 16th, and interpolation gives the quarter back


@dataclass(frozen=True, eq=False)
class CamFile:
    """Class activation maps of one photo.

    Attributes:
        classes: foreground class names of the run.
        labels: the K classes that have a map, as ascending indices into `classes`.
        cam_KHW: float32 in 0..1, of any size up to the photo's.
        size: (H, W) of the photo, upright.
        source: "given" or "predicted": where the labels come from.
        scores: probabilities, of the K labels or of all classes; or none. Of given labels the classifier's.
        affinity_hwJ: how alike each patch is to the J = 1, 9, 25 ... around it, float32 in 0..1
            (`stcl_cli.refine.walk.local_affinity`), if it was asked for.

    Raises:
        ValueError: fields that do not fit each other.
    """

    classes: tuple[str, ...]
    labels: tuple[int, ...]
    cam_KHW: np.ndarray
    size: tuple[int, int]
    source: str = "given"
    scores: tuple[float, ...] = ()
    affinity_hwJ: np.ndarray | None = None

    def __post_init__(self) -> None:
        cam, labels = self.cam_KHW, list(self.labels)
        _require(cam.ndim == 3 and cam.shape[0] == len(labels), "as many maps as labels")
        _require(all(type(number) is int for number in (*labels, *self.size)), "whole numbers as labels and size")
        _require(labels == sorted(set(labels)), "labels in ascending order")
        _require(not labels or 0 <= labels[0] <= labels[-1] < len(self.classes), "labels that are classes")
        _require(len(self.size) == 2 and min(self.size) > 0 and math.prod(self.size) <= MAX_PIXELS, "a possible size")
        _require(
            1 <= cam.shape[1] <= self.size[0] and 1 <= cam.shape[2] <= self.size[1], "maps no larger than the photo"
        )
        _require(not cam.size or (cam.min() >= 0 and cam.max() <= 1), "maps in 0..1")  # False for NaN
        _require(self.source in ("given", "predicted"), "a source 'given' or 'predicted'")
        _require(len(self.scores) in (0, len(labels), len(self.classes)), "a score a label or a class")
        if (affinity := self.affinity_hwJ) is not None:
            _require(affinity.ndim == 3 and affinity.size > 0, "an affinity of patches")
            side = math.isqrt(affinity.shape[2])
            _require(side**2 == affinity.shape[2] and side % 2 == 1, "an affinity to a square around each patch")
            _require(affinity.min() >= 0 and affinity.max() <= 1, "an affinity in 0..1")

    def full_size(self, rows: slice | None = None) -> np.ndarray:
        """The maps at the photo's own size, or these rows of them: (K, rows, W) float32 in 0..1, bilinear."""
        rows = rows or slice(0, self.size[0])
        maps = [resized_rows(cam, self.size, rows) for cam in self.cam_KHW]
        return np.stack(maps) if maps else np.zeros((0, rows.stop - rows.start, self.size[1]), np.float32)


def _require(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(f"a CAM needs {what}")


def write_cam(path: str | os.PathLike[str], cam: CamFile) -> None:
    """Write a CAM file, atomically; the same CAM gives the same bytes. Maps are reduced, all is rounded to 8 bits.

    Raises:
        StclError: `path` cannot be written.
    """
    tensors = {"cam": _quantised(cam)}
    if cam.affinity_hwJ is not None:
        tensors["affinity"] = np.rint(cam.affinity_hwJ * 255).astype(np.uint8)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "classes": cam.classes,
        "labels": cam.labels,
        "size": cam.size,
        "source": cam.source,
        "scores": [round(float(score), 6) for score in cam.scores],
    }
    tensors = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    header["crc32"] = checksum(to_json(header), tensors)
    data = safetensors.numpy.save(tensors, metadata={"stcl": to_json(header)})
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def _quantised(cam: CamFile) -> np.ndarray:
    height, width = (
        min(side, -(-full // CAM_STRIDE)) for side, full in zip(cam.cam_KHW.shape[1:], cam.size, strict=True)
    )
    small_KHW = np.zeros((len(cam.labels), height, width), np.uint8)
    for index, map_HW in enumerate(cam.cam_KHW.astype(np.float32)):
        small_KHW[index] = np.rint(cv2.resize(map_HW, (width, height), interpolation=cv2.INTER_AREA) * 255)
    return small_KHW


def read_cam(path: str | os.PathLike[str]) -> CamFile:
    """Read a CAM file; `cam_KHW` comes back as float32 at the stored size.

    Raises:
        PhotoError: not a CAM file, cut short, of another version, or of shapes that do not fit each other.
    """
    cure = "make it again with stcl cam"
    try:
        with reading(path):
            if not os.path.isfile(path):
                raise PhotoError(f"{shown(path)}: there is no such file; {cure}")
            check_readable(path)
            with safetensors.safe_open(path, framework="np") as file:
                header = _header(path, (file.metadata() or {}).get("stcl", "null"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not iterable itself
        if crc32 := header.pop("crc32", None):  # other tools may leave it out
            _require(crc32 == checksum(to_json(header), tensors), "the bytes it was written with")
        cam, affinity = tensors.pop("cam"), tensors.pop("affinity", None)
        _require(cam.dtype == np.uint8, "maps of 8 bits")
        _require(affinity is None or affinity.dtype == np.uint8, "an affinity of 8 bits")
        _require(isinstance(header["classes"], list), "a list of classes")
        _require(not tensors, "no tensors but cam and affinity")
        return CamFile(
            classes=check_classes(header["classes"], shown(path)),
            labels=tuple(header["labels"]),
            cam_KHW=cam.astype(np.float32) / 255,
            size=tuple(header["size"]),
            source=header["source"],
            scores=tuple(map(float, header["scores"])),
            affinity_hwJ=None if affinity is None else affinity.astype(np.float32) / 255,
        )
    except StclError as error:
        raise PhotoError(str(error)) from error
    except Exception as error:  # whatever the bytes of a stranger lead to
        raise PhotoError(f"{shown(path)}: is not a whole CAM file ({shown(str(error))}); {cure}") from error


def _header(path: str | os.PathLike[str], text: str) -> dict[str, Any]:
    header = json.loads(text)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise PhotoError(f"{shown(path)}: is a safetensors file, but no CAM; give a folder that stcl cam wrote")
    if header.get("version") != VERSION:
        version = shown(str(header.get("version")))
        raise PhotoError(
            f"{shown(path)}: is a CAM file of version {version}, not {VERSION}; make it again with stcl cam"
        )
    _require(header.keys() <= _FIELDS, f"no fields but {', '.join(sorted(_FIELDS))}")
    return header
