import csv
import io

import pytest
from helpers import quick
from hypothesis import given
from hypothesis import strategies as st

from stcl_cli.data.labels.csv_lines import read_lines
from stcl_cli.errors import StclError


@pytest.fixture
def lines(tmp_path):
    def lines(text):
        (tmp_path / "x.csv").write_text(text, newline="")
        return read_lines(tmp_path / "x.csv")

    return lines


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ("a.jpg,cat;dog\n", ","),
        ("a.jpg;cat,dog\n", ";"),
        ("a.jpg\tcat,dog;emu\n", "\t"),
        ('"Image";"labels, all"\n', ";"),
        ("\n\nBild,Klassen\n", ","),
        ("Bild;Klasse\n", ";"),
        ("sep=;\na,b.jpg;cat\n", ";"),
    ],
)
def test_what_parts_the_cells(lines, text, delimiter):
    found = lines(text)
    assert found.delimiter == delimiter
    assert len(found.first().cells) == 2


def test_lines_keep_their_numbers_and_blank_ones_are_passed_over(lines):
    found = lines('image,labels\r\n\r\n,\r\na,"two\nlines"\r\nb,c\r\n')
    assert [(line.origin[-6:], line.cells) for line in found.below()] == [
        ("line 5", ["a", "two\nlines"]),
        ("line 6", ["b", "c"]),
    ]
    assert found.first().keys == ["image", "labels"]
    found.skip = 1
    assert [line.cells for line in found] == [["labels"], ["two\nlines"], ["c"]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\nc,d,e\n", r"x.csv line 2: has 3 columns instead of 2; write"),
        ("a\nb\n", r"x.csv line 1: has 1 columns instead of 2"),
        ("\n \n", r"x.csv: is empty; write a line"),
    ],
)
def test_lines_that_are_no_table(lines, text, reason):
    found = lines(text)
    with pytest.raises(StclError, match=reason):
        assert list(found) or found.first()


@quick
@given(
    st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=3, max_size=3), max_size=5
    )
)
def test_what_python_writes_comes_back(tmp_path_factory, rows):
    rows = [["image", "a", "b"], *(row for row in rows if any(map(str.strip, row)))]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    path = tmp_path_factory.getbasetemp() / "x.csv"
    path.write_text(text.getvalue(), "utf-8", newline="")
    assert [line.cells for line in read_lines(path)] == rows
