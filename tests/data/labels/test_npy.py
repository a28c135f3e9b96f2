import collections
import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest

from stcl_cli.data.labels import Labels, read_labels
from stcl_cli.errors import StclError

NAMES = ("cat", "dog", "emu")
VECTORS = {"2007_000032": np.array([1, 0, 1], np.float32), "sub/b": np.zeros(3, np.float32)}
EXPECTED = Labels(NAMES, {"2007_000032": (0, 2), "sub/b": ()})


@pytest.fixture
def read(tmp_path):
    def read(value, classes=NAMES, protocol=None):
        path = tmp_path / "cls_labels.npy"
        if isinstance(value, bytes):
            path.write_bytes(value)
        elif protocol is None:
            np.save(path, value)
        else:
            path.write_bytes(npy(pickle.dumps(np.array(value), protocol)))
        return read_labels(path, classes)

    return read


def npy(pickled):
    """What numpy.save writes around a pickle."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
    return file.getvalue() + pickled


@pytest.mark.parametrize("protocol", [None, 0, 1, 2, 3, 4])
def test_what_numpy_saves(read, protocol):
    assert read(VECTORS, protocol=protocol) == EXPECTED


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_of_old_and_new_numpy(read, module):
    pickled = pickle.dumps(np.array(VECTORS), 2)
    names = {module for op, module, _ in pickletools.genops(pickled) if op.name == "GLOBAL"}
    used = next(name.split()[0] for name in names if "_reconstruct" in name)
    assert read(npy(pickled.replace(b"c" + used.encode() + b"\n", b"c" + module.encode() + b"\n"))) == EXPECTED


@pytest.mark.parametrize("kind", ["?", "i1", "u1", "<i8", ">f4", "f2", "f8"])
def test_kinds_of_numbers(read, kind):
    assert read({name: vector.astype(kind) for name, vector in VECTORS.items()}) == EXPECTED


def test_lists_ordered_dictionaries_and_names_out_of_arrays(read):
    assert (
        read(collections.OrderedDict((name, vector.astype(int).tolist()) for name, vector in VECTORS.items()))
        == EXPECTED
    )
    names = np.array(list(VECTORS))
    assert read(dict(zip(names, VECTORS.values(), strict=True))) == EXPECTED  # numpy.str_


@pytest.mark.parametrize("integer", [int, np.int32, np.int64])
def test_names_that_irn_makes_numbers_of(read, integer):
    assert read({integer(2007000032): [1, 0, 1], integer(9): [0, 0, 0]}).by_name == {"2007_000032": (0, 2), "9": ()}


def test_names_of_the_numbers_are_beside_it(read, tmp_path):
    with pytest.raises(StclError, match=r"key '2007_000032': 3 numbers, but no names for them; write a classes.txt"):
        read(VECTORS, None)
    with pytest.raises(StclError, match=r"key '2007_000032': 3 numbers, but 2 names for them"):
        read(VECTORS, ("cat", "dog"))
    (tmp_path / "classes.txt").write_text("background\nemu\ndog\ncat\n")
    assert read(VECTORS, None) == Labels(("emu", "dog", "cat"), {"2007_000032": (0, 2), "sub/b": ()})
    assert read(VECTORS).by_name["2007_000032"] == (0, 2)  # emu and cat by name


# ---- what strangers may put there -----------------------------------------------------------------------------------


class Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _global(module, name):
    return f"c{module}\n{name}\n".encode()


SYSTEM = [
    pickle.dumps(Calls(os.system, "touch PWNED"), 0),
    pickle.dumps({"a": Calls(os.system, "touch PWNED")}, 4),
    pickle.dumps({Calls(eval, "open('PWNED', 'w')"): 1}, 2),
    pickle.dumps(Calls(getattr, Calls(__import__, "os"), "system"), 3),
    _global("os", "system") + b"(S'touch PWNED'\ntR.",
    b"(S'touch PWNED'\nios\nsystem\n.",  # INST
    b"(" + _global("subprocess", "Popen") + b"S'touch PWNED'\no.",  # OBJ
    b"\x80\x04\x8c\x05numpy\x8c\x09os.system\x93.",  # a dotted name
    b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93(\x8c\x11open('PWNED', 'w')tR.",
    _global("numpy", "load") + b"(S'x.npy'\ntR.",
    _global("numpy.core.multiarray", "fromfile") + b".",
    _global("stcl_cli.data.labels.npy", "_Unpickler") + b".",
]


@pytest.mark.parametrize("pickled", SYSTEM)
def test_nothing_is_run(read, tmp_path, monkeypatch, pickled):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StclError, match=r"cls_labels.npy: wants to run [\w.]+, which no label file needs") as caught:
        read(npy(pickled))
    assert not (tmp_path / "PWNED").exists()
    assert "\n" not in str(caught.value)


def _array_state(*state):
    """A pickle of an array under reconstruction that is given any state at all."""
    start = _global("numpy.core.multiarray", "_reconstruct") + b"(" + _global("numpy", "ndarray") + b"(I0\ntS'b'\ntR"
    return npy(start + pickle.dumps(state, 3)[2:-1] + b"b.")


def test_arrays_that_lie_about_themselves_never_reach_numpy(read):
    dtype = np.dtype("f4")
    for shape, data in (
        ((10**9,), b"1234"),
        ((-1,), b"1234"),
        ((2, 2), b"1" * 16),
        ((), b"1234"),
        ("x", b""),
        ((1,), 3),
    ):
        with pytest.raises(StclError, match=r"holds an array of shape|is a broken"):
            read(_array_state(1, shape, dtype, False, data))


@pytest.mark.parametrize("code", ["V8", "O4", "M8[ns]", "f4,f4", "O,O", "U99999", "S3", "c8"])
def test_kinds_of_data_that_no_vector_has(read, code):
    pickled = pickle.dumps({"a": Calls(np.dtype, code)}, 2)
    with pytest.raises(StclError, match=r"holds data of type|is a broken"):
        read(npy(pickled))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"a": np.array([1, np.nan, 0])}, "key 'a': holds nan; write 1 for shown and 0 for not"),
        ({"a": [1, -1, 0]}, "key 'a': holds -1"),
        ({"a": [0.5, 0, 0]}, "key 'a': holds 0.5"),
        ({"a": ["cat"] * 3}, "key 'a': is not a photo's name with a vector of numbers"),
        ({"a": 3}, "key 'a': is not a photo's name with a vector"),
        ({"a": [[1], [1, 2]]}, "key 'a': is not a photo's name with a vector|broken"),
        ({1.5: [1, 0, 0]}, r"key '1.5': is not a photo's name"),
        ({}, "names no photo"),
        ([1, 2], "holds no dictionary|holds an array"),
        (np.eye(3), "holds no dictionary"),
        (b"\x93NUMPY", "is a broken .npy file"),
        (npy(b""), "is a broken .npy file"),
        (npy(pickle.dumps(VECTORS)[:-20]), "is a broken .npy file"),
        (npy(b"\x80\x04P1\n."), "is a broken .npy file"),  # a persistent id
        (npy(b"\x80\x04\x82\x01."), "is a broken .npy file"),  # an extension code
        (npy(b"]" * 100_000), "is a broken .npy file"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 60000) + b"(" * 60000, "is a broken .npy file"),
        (npy(pickle.dumps({"a": 1})), "is a broken .npy file|holds no dictionary"),
    ],
)
def test_errors(read, value, reason):
    with pytest.raises(StclError, match=rf"cls_labels.npy:? ?({reason})") as caught:
        read(value)
    assert "\n" not in str(caught.value)


def test_a_few_bytes_take_no_gigabytes(read):
    """The index of a place makes Python's unpickler keep room for all places up to it."""
    with pytest.raises(StclError, match=r"cls_labels.npy: names a place 134217728 in a file of \d+ bytes;"):
        read(npy(b"\x80\x02}r" + (2**27).to_bytes(4, "little") + b"."))
