import pytest

from stcl_cli.data.labels import Labels, read_labels
from stcl_cli.errors import StclError


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.xml").write_text(text)
    return folder


CAT = "<object><name> cat\n</name><part><name>head</name></part><difficult>1</difficult></object>"


def test_objects_not_parts(tmp_path):
    folder = write(tmp_path / "Annotations", a=f"<annotation>{CAT}{CAT}<object><name>Bär</name></object></annotation>")
    write(folder, b="<annotation><filename>z.jpg</filename></annotation>")
    for path in (folder, tmp_path):
        assert read_labels(path) == Labels(("Bär", "cat"), {"a": (0, 1), "b": ()})


def test_objects_that_labelme_on_the_web_keeps_as_deleted(tmp_path):
    objects = [f"<object><name>{name}</name><deleted>{n}</deleted></object>" for name, n in (("car", 1), ("tree", 0))]
    folder = write(tmp_path / "Annotations", a=f"<annotation>{''.join(objects)}</annotation>")
    assert read_labels(folder) == Labels(("tree",), {"a": (0,)})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotations/>", ": its root is <annotations>, not VOC's <annotation>; give this file itself, CVAT's"),
        ("<html/>", ": its root is <html>, not VOC's <annotation>; take it out"),
        ("<annotation><object/></annotation>", ": has an object without a name"),
        ("<annotation>", " line 1: is not XML"),
        ('<!DOCTYPE a [<!ENTITY b "cat">]><annotation/>', " line 1: has a document type declaration"),
    ],
)
def test_errors(tmp_path, text, reason):
    with pytest.raises(StclError, match=rf"a.xml{reason}"):
        read_labels(write(tmp_path / "x", a=text))
