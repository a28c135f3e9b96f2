import pytest

from stcl_cli.data.labels import Labels, read_labels
from stcl_cli.errors import StclError

META = """<version>1.1</version><meta><job><labels>
<label><name>dog</name><attributes><attribute><name>colour</name></attribute></attributes></label>
<label><name>cat</name></label></labels></job></meta>"""


@pytest.fixture
def read(tmp_path):
    def read(text, path="annotations.xml"):
        (tmp_path / "annotations.xml").write_text(text)
        return read_labels(tmp_path / path)

    return read


def test_classes_in_the_order_of_the_labels(read):
    images = '<image name="a/b.jpg"><box label="cat"/><skeleton label="dog"><points label="eye"/></skeleton></image>'
    expected = Labels(("dog", "cat"), {"a/b.jpg": (0, 1), "c.jpg": ()})
    text = f'<annotations>{META}{images}<image id="1" name="c.jpg"></image></annotations>'
    assert read(text) == expected
    assert read(text, "") == expected  # the folder of the export
    assert read('<annotations><image name="a"><tag label="emu"/></image></annotations>').classes == ("emu",)


def test_points_of_skeletons_are_no_classes(read):
    names = "".join(
        f"<label><name>{name}</name><type>{kind}</type></label>"
        f"<label><name>nose</name><type>points</type><parent>{name}</parent></label>"
        for name, kind in (("cat", "skeleton"), ("dog", "skeleton"))
    )
    image = '<image name="a"><skeleton label="dog"><points label="nose"/></skeleton></image>'
    text = f"<annotations><meta><task><labels>{names}</labels></task></meta>{image}</annotations>"
    assert read(text) == Labels(("cat", "dog"), {"a": (1,)})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            '<annotations><track label="cat"><box frame="0"/></track></annotations>',
            ": lists no images; export 'CVAT for",
        ),
        ("<annotation><object/></annotation>", ": lists no images; .*VOC's folder"),
        ("<annotations><image/></annotations>", " image 1: has no name"),
        (
            f'<annotations>{META}<image name="a"><tag label="dig"/></image></annotations>',
            " image 'a': unknown class 'dig'",
        ),
        ('<!DOCTYPE a [<!ENTITY b "cat">]><annotations/>', " line 1: has a document type declaration"),
    ],
)
def test_errors(read, text, reason):
    with pytest.raises(StclError, match=rf"annotations.xml{reason}"):
        read(text)
