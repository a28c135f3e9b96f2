"""What readers are given: valid files that were changed, and new ones made of the words that a format knows."""

from __future__ import annotations

import json

from hypothesis import strategies as st

TOKENS = [
    b"", b"\0", b"\n", b"\r\n", b"\t", b",", b";", b"|", b'"', b"'", b"\\", b"/", b"../", b"{", b"}", b"[", b"]", b":",
    b"<", b">", b"&", b"&x;", b"<!DOCTYPE a [<!ENTITY x 'y'>]>", b"]]>", b"#", b"- ", b"!!python/name:os.system",
    b"&a [*a, *a]", b"NaN", b"Infinity", b"1e999", b"-1", b"0", b"255", b"256", b"65536", b"4294967295",
    b"9" * 30, b"9" * 5000, b"null", b"true", b"\xff", b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80",
    "é".encode(), "\u2028".encode(), "\u202e".encode(), b"\x1b[2J",
    b"cos\nsystem\n(S'id'\ntR.", b"\x80\x04", b"background",
]  # fmt: skip

_change = st.tuples(
    st.sampled_from(["flip", "cut", "drop", "insert", "repeat", "overwrite", "swap"]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.one_of(st.sampled_from(TOKENS), st.binary(max_size=12)),
)


def changed(seed: bytes, changes: list[tuple[str, float, float, bytes]]) -> bytes:
    data = bytearray(seed)
    for kind, where, much, token in changes:
        at = int(where * len(data))
        end = at + 1 + int(much * much * min(len(data) - at, 400))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << int(much * 7)
        elif kind == "cut":
            del data[at:]
        elif kind == "drop":
            del data[at:end]
        elif kind == "insert":
            data[at:at] = token
        elif kind == "repeat":
            data[at:at] = data[at:end] * 3
        elif kind == "overwrite":
            data[at : at + len(token)] = token
        elif kind == "swap":
            half = len(data) // 2
            data[half:half] = data[at:end]
    return bytes(data[:200_000])


def variants(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """One of the valid files with a few changes, or bytes of no format."""
    mutated = st.builds(changed, st.sampled_from(seeds), st.lists(_change, min_size=1, max_size=5))
    return st.one_of(mutated, mutated, mutated, mutated, st.binary(max_size=300))


KEYS = [
    "images", "annotations", "categories", "id", "image_id", "category_id", "file_name", "name", "shapes", "label",
    "labels", "imagePath", "data", "image", "choice", "choices", "rectanglelabels", "value", "result", "from_name",
    "format", "version", "classes", "size", "source", "scores", "command", "stcl", "stage", "iteration", "config",
    "ranks", "crc32", "cam", "dog", "a.jpg", "../../x", "background", "", "seed", "val_miou", "loss", "reason",
    "hf-hub:stranger/net", "tu-hf_hub:stranger/net", "stcl_tiny",
]  # fmt: skip
_numbers = st.one_of(st.integers(-2, 300), st.sampled_from([10**30, -(10**9), 2**31, 2**63]), st.floats())
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, st.sampled_from(KEYS), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=4)), inner, max_size=6),
    ),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)
JSON = VALUES.map(lambda value: json.dumps(value).encode())
JSON_LINES = st.lists(VALUES, max_size=5).map(lambda values: b"".join(json.dumps(v).encode() + b"\n" for v in values))


def altered(value: dict) -> st.SearchStrategy[dict]:
    """A header with a few of its fields replaced, removed or added."""
    fields = st.sampled_from([*value, *KEYS])
    changes = st.dictionaries(fields, st.one_of(VALUES, st.just(...)), max_size=3)
    return changes.map(lambda new: {k: v for k, v in (value | new).items() if v is not ...})


_tags = st.sampled_from(
    ["annotations", "annotation", "image", "object", "name", "filename", "folder", "tag", "box", "polygon", "labels",
     "label", "meta", "task", "size", "width", "track"]
)  # fmt: skip
_words = st.one_of(st.sampled_from(KEYS), st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF), max_size=6))


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def _element(tag: str, attributes: dict[str, str], inside: str | list[str]) -> str:
    inside = _escape(inside) if isinstance(inside, str) else "".join(inside)
    given = "".join(f' {name}="{_escape(value)}"' for name, value in attributes.items())
    return f"<{tag}{given}>{inside}</{tag}>"


_attributes = st.dictionaries(st.sampled_from(["id", "name", "label", "width", "height", "subset"]), _words, max_size=3)
XML = st.recursive(
    st.builds(_element, _tags, _attributes, _words),
    lambda inner: st.builds(_element, _tags, _attributes, st.lists(inner, max_size=4)),
    max_leaves=15,
).map(lambda text: f"<?xml version='1.0'?>{text}".encode())

CELLS = st.one_of(st.sampled_from([*KEYS, "0", "1", "cat;dog", '"', "a\n", "True", "nan", " "]), st.text(max_size=5))
CSV = st.builds(
    lambda rows, cut, end: end.join(cut.join(row) for row in rows).encode("utf-8", "surrogatepass"),
    st.lists(st.lists(CELLS, min_size=1, max_size=5), max_size=8),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
)

# Programs for the pickle machine: opcodes with plausible and implausible operands.
_opcodes = st.one_of(
    st.sampled_from([bytes([code]) for code in b"()]}.0123456789IJKLMNFGSTUVXZabdeghijlmnopqrstu"]),
    st.sampled_from([bytes([code]) for code in b"\x80\x81\x85\x86\x87\x88\x89\x90\x91\x92\x93\x94\x95"]),
    st.sampled_from([
        b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cos\nsystem\n",
        b"cbuiltins\neval\n", b"cbuiltins\ngetattr\n", b"ccollections\nOrderedDict\n", b"S'id'\n", b"X\x02\0\0\0id",
        b"K\x01", b"J\xff\xff\xff\x7f", b"\x8c\x02os\x8c\x06system\x93", b"(tR", b"}q\0", b"h\0", b"R", b"b", b"\x81",
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f", b"B\xff\xff\xff\xff",
    ]),
)  # fmt: skip
PICKLES = st.lists(_opcodes, max_size=30).map(lambda parts: b"\x80\x04" + b"".join(parts) + b".")
