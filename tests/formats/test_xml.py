import pytest

from stcl_cli.errors import StclError
from stcl_cli.formats.xml import read_xml


@pytest.fixture
def read(tmp_path):
    def read(text, encoding="utf-8", **options):
        (tmp_path / "x.xml").write_bytes(text.encode(encoding))
        return read_xml(tmp_path / "x.xml", **options)

    return read


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_elements_attributes_and_text(read, encoding):
    declaration = '<?xml version="1.0" encoding="latin-1"?>' if encoding == "latin-1" else ""
    root = read(f'{declaration}<a>\r\n<b x="ü">B&#228;r &amp; co</b><b/></a>', encoding)
    assert [(b.get("x"), b.text) for b in root] == [("ü", "Bär & co"), (None, None)]


def test_finished_elements_come_in_order_and_can_be_cleared(read):
    seen = []

    def finished(element):
        seen.append((element.tag, len(element)))
        element.clear()

    root = read("<a><b><c/><c/></b><b/></a>", finished=finished)
    assert seen == [("c", 0), ("c", 0), ("b", 2), ("b", 0), ("a", 2)]
    assert len(root) == 0


LAUGHS = '<!ENTITY a0 "ha">' + "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))


@pytest.mark.parametrize(
    "text",
    [
        f"<!DOCTYPE x [{LAUGHS}]><x>&a11;</x>",  # billion laughs: 200 GB
        f'<!DOCTYPE x [<!ENTITY a "{"a" * 1000}">]><x>{"&a;" * 1000}</x>',  # quadratic
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>',
        '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd"><x/>',
        '<!DOCTYPE x [<!ENTITY % a SYSTEM "http://127.0.0.1:9/"> %a;]><x/>',
        f'<!DOCTYPE x [<!ATTLIST y z CDATA "{"z" * 1000}">]><x>{"<y/>" * 1000}</x>',  # a default for every element
        "<!DOCTYPE x><x/>",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_type_declarations_are_refused(read, text, encoding):
    with pytest.raises(StclError, match=r"x.xml line 1: has a document type declaration .*take it out"):
        read(text, encoding)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", r"line 1: is not XML \(no element found"),
        ("<a>\n<b>\n</a>", r"line 3: is not XML \(mismatched tag"),
        ("<a>&unknown;</a>", r"line 1: is not XML \(undefined entity"),
        ('<?xml version="1.0" encoding="klingon"?><a/>', r"is not XML \(unknown encoding"),
        ('<?xml version="1.0" encoding="shift_jis"?><a/>', r"is not XML \(multi-byte encodings are not supported"),
        ("<a/><b/>", "is not XML"),
        ("<a>\x00</a>", "is not XML"),
    ],
)
def test_what_is_not_xml(read, text, reason):
    with pytest.raises(StclError, match=rf"x.xml.*{reason}") as caught:
        read(text)
    assert "\n" not in str(caught.value)


def test_a_hundred_thousand_elements_in_each_other(read):
    assert read("<a>" * 100_000 + "</a>" * 100_000).tag == "a"


def test_no_such_file(tmp_path):
    with pytest.raises(StclError, match=r"x.xml: cannot be read \(No such file"):
        read_xml(tmp_path / "x.xml")
