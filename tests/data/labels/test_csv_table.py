import csv
import tracemalloc
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stcl_cli.data.labels import Labels, read_labels
from stcl_cli.data.labels.csv_table import NOTHING
from stcl_cli.errors import StclError


@pytest.fixture
def read(tmp_path):
    def read(text, classes=None, encoding="utf-8"):
        (tmp_path / "labels.csv").write_bytes(text.encode(encoding))
        return read_labels(tmp_path / "labels.csv", classes)

    return read


PAIRS = Labels(("cat", "dog"), {"a.jpg": (0,), "sub/b": (0, 1), "c": ()})


@pytest.mark.parametrize("header", ["", "image,labels\n", "\ufeffFile_Name, Classes\r\n", "Image Name,Class Label\n"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_pairs(read, header, end, encoding):
    text = header + end.join(["a.jpg,cat", 'sub/b,"dog;cat"', "", "c,", ""])
    assert read(text.removeprefix("\ufeff") if encoding == "utf-16" else text, encoding=encoding) == PAIRS


def test_spreadsheets_quote_what_parts_the_columns(read):
    assert read('image;labels\na.jpg;cat\nsub/b;"dog;cat"\nc;\n') == PAIRS
    assert read("image;labels\na.jpg;cat\nsub/b;dog,cat\nc;\n") == PAIRS


@pytest.mark.parametrize("header", ["image", "", "whatever"])
def test_columns(read, header):
    assert read(f"{header},dog,cat\na.jpg,0,1\nsub/b,1, 1\nc,0.0,\n") == Labels(
        ("dog", "cat"), {"a.jpg": (1,), "sub/b": (0, 1), "c": ()}
    )
    assert read("i,dog,cat\na.jpg,0,1\nsub/b,1,1\nc,0,0\n", ["cat", "dog"]) == PAIRS


def test_columns_without_a_header(read):
    assert read("a.jpg,1,0\nsub/b,1,1\nc,0,0\n", ["cat", "dog"]) == PAIRS
    with pytest.raises(StclError, match=r"labels.csv: 2 columns of 0 and 1 without a header; write the class names"):
        read("a.jpg,1,0\nsub/b,1,1\n")


def test_one_column_of_one_class(read):
    assert read("image,crack\na,1\nb,0\n") == Labels(("crack",), {"a": (0,), "b": ()})


# fmt: off
FLAGS = [  # what says yes, what no
    ("yes", "no"), ("Y", "n"), ("Ja", "nein"), ("ja", "-"), ("OUI", "non"), ("sí", "no"), ("x", ""), ("X", " "),
    ("WAHR", "FALSCH"), ("VRAI", "FAUX"), ("VERO", "FALSO"), ("1", "0"),
    ("VERDADERO", "FALSO"), ("VERDADEIRO", "FALSO"), ("WAAR", "ONWAAR"), ("True", "False"), ("1.0", ""),
]
# fmt: on


@pytest.mark.parametrize("header", ["image,crack", "Bild,Riss", "id,photo,x", "image,y", ",filename,NO"])
@pytest.mark.parametrize(("yes", "no"), FLAGS)
def test_flags_of_one_class(read, header, yes, no):
    before = "7," * (header.count(",") - 1)
    name = header.split(",")[-1]
    assert read(f"{header}\n{before}a,{yes}\n{before}b,{no}\n") == Labels((name,), {"a": (0,), "b": ()})


@pytest.mark.parametrize(("yes", "no"), FLAGS)
def test_flags_of_several_classes(read, yes, no):
    assert read(f"whatever,dog,x\na,{no},{yes}\nb,{yes},{yes}\n") == Labels(("dog", "x"), {"a": (1,), "b": (0, 1)})
    assert read(f"image,y,n\na,{no},{yes}\n") == Labels(("y", "n"), {"a": (1,)})
    if no.strip():
        with pytest.raises(StclError, match="2 columns of 0 and 1 without a header"):
            read(f"a.jpg,{yes},{no}\n")


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("a,x\nb,\nc,x\n", ("x",)),  # without a header
        ("a.jpg,yes\nb.jpg,no\n", ("no", "yes")),
        ("a.jpg,cat\nb.jpg,\nc.jpg,x\n", ("cat", "x")),
        ("a,cat\nb,\n", ("cat",)),
        ("image,label\na,yes\nb,no\n", ("no", "yes")),
        ("image,fold,label\na,0,yes\nb,1,no\n", ("no", "yes")),
        ("image,species\na,x\nb,no\nc,zebu\n", ("no", "x", "zebu")),
        ("image,species\na,2\nb,3\n", ("2", "3")),
        ("image,species\na,0\nb,2\n", ("0", "2")),
        ("image,species\na,2.0\nb,1.5\n", ("1.5", "2.0")),
        ("a.jpg,photo\nb.jpg,cat\n", ("cat", "photo")),
    ],
)
def test_names_and_numbers_of_classes_are_no_flags(read, text, classes):
    assert read(text).classes == classes


def test_flags_that_are_named_as_classes(read):
    assert read("image,seen\na,yes\nb,no\n", ["yes", "no"]) == Labels(("yes", "no"), {"a": (0,), "b": (1,)})


@pytest.mark.parametrize("header", ["image,crack", "bild,riss", "image,crack,x"])
def test_scores_are_no_flags(read, header):
    more = ",1" * (header.count(",") - 1)
    with pytest.raises(StclError, match=r"line 3: '0.93' is neither 0 nor 1; write one of them"):
        read(f"{header}\na,1{more}\nb,0.93{more}\nc,1e-05{more}\n")
    with pytest.raises(StclError, match=r"line 3: '0,93' is neither 0 nor 1; write one of them"):
        read("Datei;Riss\na;1,0\nb;0,93\nc;0\n")


@pytest.mark.parametrize("nothing", ["NaN", "nan", " None", "none", "NULL", "N/A", "#N/A", "NA", "<NA>"])
def test_words_for_an_empty_cell(read, nothing):
    name = nothing.strip()
    expected = Labels(("cat",), {"a": (0,), "b": ()})
    assert read(f"image,labels\na,cat\nb,{nothing}\n") == expected
    assert read(f"a,cat\nb,{nothing}\n") == expected
    assert read(f"image,label,tag\na,{nothing},cat\nb,{nothing},{nothing}\n") == expected
    assert read(f"image,labels\na,cat\nb,{nothing}\n", ["cat", name]).by_name == {"a": (0,), "b": (1,)}
    assert read("image,labels\na,Na\nb,Nan\n").classes == ("Na", "Nan")


@pytest.mark.parametrize("before", ["id", "", "Unnamed: 0", "Index", "image_id", "#", ",id"])
def test_numbers_before_the_photos_are_passed_over(read, before):
    numbers = [",".join([number] * (before.count(",") + 1)) for number in "78"]
    rows = [f"{number},line A/{name}.png" for number, name in zip(numbers, "ab", strict=True)]
    expected = {"line A/a.png": (0,), "line A/b.png": (1,)}
    assert read(f"{before},filename,defect,ok\n{rows[0]},1,0\n{rows[1]},0,1\n") == Labels(("defect", "ok"), expected)
    assert read(f"{before},filename,species\n{rows[0]},cat\n{rows[1]},dog\n") == Labels(("cat", "dog"), expected)
    assert read(f"{before},filename,label\n{rows[0]},0\n{rows[1]},1\n") == Labels(("0", "1"), expected)
    assert read(f"{before},filename,w,label\n{rows[0]},9,cat\n{rows[1]},9,dog\n").by_name == expected


@pytest.mark.parametrize(
    "text",
    [
        "dog,cat,image\n0,1,a.jpg\n1,0,b.jpg\n",  # the photo last
        "bild,dog,cat\na.jpg,0,1\nb.jpg,1,0\n",
        "bild,id,label\na.jpg,7,cat\nb.jpg,8,dog\n",  # a word that nobody knows, above files
        "id,label,file\n7,cat,a.jpg\n8,dog,b.jpg\n",
        "name,label,file\nno 7,cat,a.jpg\nno 8,dog,b.jpg\n",
    ],
)
def test_the_column_of_the_photos(read, text):
    labels = read(text)
    assert {name: [labels.classes[i] for i in shows] for name, shows in labels.by_name.items()} == {
        "a.jpg": ["cat"],
        "b.jpg": ["dog"],
    }


def test_a_class_called_like_a_column_of_photos(read):
    assert read("bild,path,road\na.jpg,1,0\n") == Labels(("path", "road"), {"a.jpg": (0,)})
    assert read("image,path\na.jpg,1\n") == Labels(("path",), {"a.jpg": (0,)})
    assert read("image,class_1,tag\na.jpg,1,0\n") == Labels(("class_1", "tag"), {"a.jpg": (0,)})


@pytest.mark.parametrize("header", ["image,crack", "image,crack,dent"])
def test_nan_in_a_column_of_a_class_is_refused(read, header):
    more = ",0" * (header.count(",") - 1)
    with pytest.raises(StclError, match=r"line 3: 'NaN' is neither 0 nor 1"):
        read(f"{header}\na,1{more}\nb,NaN{more}\n")


def test_columns_that_are_taken_for_classes_name_that_of_the_photos(read):
    with pytest.raises(StclError, match=r"line 2: 'a' is neither 0 nor 1; .* labels \(column of the photos: 'nr'\)"):
        read("nr,bild,defect,ok\n7,a,1,0\n")


@pytest.mark.parametrize(
    "header", ["label1;label2", "Label 1;Label 2", "class_1;class_2", "label;label.1", "tags;class2"]
)
def test_numbered_columns_with_classes_add_up(read, header):
    text = f"image;{header};w\na;cat;;7\nb;cat;dog;7\nc;;nan;7\n"
    assert read(text) == Labels(("cat", "dog"), {"a": (0,), "b": (0, 1), "c": ()})
    numbers = text.replace("cat", "3").replace("dog", "5")
    assert read(numbers) == Labels(("3", "5"), {"a": (0,), "b": (0, 1), "c": ()})
    flags = read(f"image;{header}\na;0;1\nb;1;0\n")
    assert (len(flags.classes), flags.by_name) == (2, {"a": (1,), "b": (0,)})


def test_classes_called_0_and_1(read):
    assert read("a,0\nb,1\n") == Labels(("0", "1"), {"a": (0,), "b": (1,)})
    assert read("image,label\na,0\nb,1\n") == Labels(("0", "1"), {"a": (0,), "b": (1,)})


@pytest.mark.parametrize(
    "header", ["filename,species", "id,label", "ID,breed", "Photo  Name,Breed", "bild,Klasse;class", "whatever,labels"]
)
def test_a_header_of_which_one_word_is_known(read, header):
    header = header.replace("Klasse;", "")
    assert read(f"{header}\na.jpg,cat\nb,dog;cat\n") == Labels(("cat", "dog"), {"a.jpg": (0,), "b": (0, 1)})
    swapped = ",".join(reversed(header.split(",")))
    assert read(f"{swapped}\ncat,a.jpg\ndog;cat,b\n") == Labels(("cat", "dog"), {"a.jpg": (0,), "b": (0, 1)})


def test_a_class_may_be_called_like_a_header(read):
    assert read("a.jpg,tag\nb.jpg,choice\n").by_name == {"a.jpg": (1,), "b.jpg": (0,)}


def test_several_columns_with_classes_add_up_and_numbers_of_classes_are_no_names(read):
    text = "image,id,label,choice\na,1,cat,outdoor\nb,2,,night;outdoor\n"
    assert read(text) == Labels(("cat", "night", "outdoor"), {"a": (0, 2), "b": (1, 2)})
    assert read("image,class,class_name\na,0,cat\nb,1,dog\nc,,\n").classes == ("cat", "dog")
    assert read("image,class,label\na,0,2\nb,1,3\n").classes == ("0", "1")


def test_a_cell_longer_than_python_reads_by_itself(read):
    brush = '[{""brushlabels"": [""cat""], ""rle"": [' + "1, " * 100_000 + "1]}]"
    assert read(f'image,label\na,"{brush}"\n') == Labels(("cat",), {"a": (0,)})


def test_addresses_of_label_studio(read):
    assert set(read("image,choice\n/data/local-files/?d=sub/my%20a.jpg,cat\n/data/b%20#1.jpg,cat").by_name) == {
        "sub/my a.jpg",
        "/data/b%20#1.jpg",  # a path as any other
    }


@pytest.mark.parametrize("name", ["/data/local-files/", "/data/local-files/?d=", "/data/local-files/a.jpg"])
def test_an_address_that_names_no_file_is_a_name_like_any_other(read, name):
    assert read(f"image,choice\n{name},cat\n").by_name == {name: (0,)}


def test_columns_and_a_class_that_no_photo_shows(read):
    assert read("image,cat,dog\na,1,0\n").classes == ("cat", "dog")
    assert read("image,cat\na,1\n", ["cat", "dog"]).classes == ("cat", "dog")


def test_lines_of_one_image_add_up(read):
    assert read("a,cat\nb,dog\na,dog;cat;dog\nb,\n").by_name == {"a": (0, 1), "b": (1,)}


def test_order_of_classes(read):
    assert read("a,dog;cat").classes == ("cat", "dog")
    assert read("a,dog;cat", ("emu", "dog", "cat")) == Labels(("emu", "dog", "cat"), {"a": (1, 2)})


def test_background_is_no_label(read):
    assert read("a,background;cat\nb,_Background_") == Labels(("cat",), {"a": (0,), "b": ()})
    assert read("image,background,cat\na,1,1\n") == Labels(("cat",), {"a": (0,)})


def test_class_names_are_composed(read):
    nfd = unicodedata.normalize("NFD", "Bär")
    assert read(f"a,{nfd}", [unicodedata.normalize("NFC", "Bär")]).by_name == {"a": (0,)}
    assert read(f"a,{nfd}\nb,{unicodedata.normalize('NFC', nfd)}").classes == (unicodedata.normalize("NFC", "Bär"),)


@pytest.mark.parametrize(
    ("text", "classes", "reason"),
    [
        ("", None, r"is empty; write a line"),
        ("\n \n", None, r"is empty"),
        ("a.jpg\nb.jpg", None, r"line 1: has 1 columns instead of 2; write image,class;class"),
        ("a,cat\nb,cat,dog", None, r"line 2: has 3 columns instead of 2"),
        ("a,cat,dog\nb,cat,dog", None, r"line 2: 'cat' is neither 0 nor 1; .*join"),
        ("image,cat,dog\na,0,2", None, r"line 2: '2' is neither 0 nor 1"),
        ("a,\nb,", None, r"names no class"),
        ("a,cat\n\nb,dgo", ["cat", "dog"], r"line 3: unknown class 'dgo'; correct it to 'dog', add it"),
        ("a,emu", ["cat", "dog"], r"line 1: unknown class 'emu'; correct it, add it"),
        ("image,cat,emu\na,0,1", ["cat", "dog"], r"line 1: unknown class 'emu'"),
        ("image,cat,cat\na,0,1", None, r"line 1: names class 'cat' twice"),
        ("image,cat,\na,0,1", None, r"line 1: has an empty class name"),
        ("a,cat\nb,'d\x07g'", None, r"line 2: class name .* control character"),
        ('a,cat\nb,"dog\nc,cat\n', None, r"line 3: class name .* control character"),  # an unclosed quote
    ],
)
def test_errors_name_file_and_line(read, text, classes, reason):
    with pytest.raises(StclError, match=rf"labels.csv(:)? ?{reason}") as caught:
        read(text, classes)
    assert "\n" not in str(caught.value)


def test_no_such_file_and_no_text(tmp_path):
    with pytest.raises(StclError, match=r"labels.csv: cannot be read"):
        read_labels(tmp_path / "labels.csv", None)
    (tmp_path / "labels.csv").write_bytes(b"a,\xff\xfe\n")
    with pytest.raises(StclError, match=r"save it as UTF-8 \(in Excel: CSV UTF-8\)$"):
        read_labels(tmp_path / "labels.csv", None)


# U+037E, the Greek question mark, is a semicolon in NFC
NAMES = st.text(st.characters(categories=["L", "N", "P", "Zs"], exclude_characters=";\u037e"), min_size=1).map(
    lambda text: unicodedata.normalize("NFC", text).strip()
)
CLASSES = NAMES.filter(lambda name: name and "background" not in name.casefold() and name not in NOTHING)


@given(st.dictionaries(NAMES.filter(bool), st.sets(CLASSES, min_size=1, max_size=5), min_size=1, max_size=20))
def test_what_the_csv_module_writes_comes_back(tmp_path_factory, table):
    path = tmp_path_factory.getbasetemp() / "written.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "labels"), *((name, ";".join(shows)) for name, shows in table.items())])
    labels = read_labels(path, None)
    assert {name: {labels.classes[i] for i in shows} for name, shows in labels.by_name.items()} == table
    assert labels.classes == tuple(sorted(set().union(*table.values())))


def test_cells_of_json_and_names_that_only_look_like_it(read):
    cells = ('{"choices": ["cat", "dog"]}', '[{"x": 1.5, "rectanglelabels": ["cat"]}]', '["dog"]', "[1]", "{}", '{"x')
    text = "image,choice\n" + "".join(f'p{n},"{cell.replace(chr(34), chr(34) * 2)}"\n' for n, cell in enumerate(cells))
    labels = read(text)
    shown = [[labels.classes[index] for index in labels.by_name[f"p{n}"]] for n in range(len(cells))]
    assert shown == [["cat", "dog"], ["cat"], ["dog"], ["[1]"], [], ['{"x']]
    with pytest.raises(StclError, match=r"line 2: 3 is no class name"):
        read('image,choice\na,"{""choices"": [3]}"\n')


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("['cat', 'dog']", ["cat", "dog"]),
        ("['hot dog']", ["hot dog"]),
        ("""["king's cat", 'dog',]""", ["dog", "king's cat"]),
        ("['cat' 'dog']", ["cat", "dog"]),  # an array
        ("{'cat', 'dog'}", ["cat", "dog"]),
        ("[]", []),
        ("[ ]", []),
        ("['cat' and 'dog']", ["['cat' and 'dog']"]),
        ("[unknown]", ["[unknown]"]),
    ],
)
def test_lists_as_pandas_writes_them(read, cell, names):
    labels = read("image,labels\na.jpg," + '"' + cell.replace('"', '""') + '"\nb.jpg,\nc.jpg,zebu\n')
    assert labels.classes == (*names, "zebu")
    assert labels.by_name == {"a.jpg": tuple(range(len(names))), "b.jpg": (), "c.jpg": (len(names),)}


def test_a_cell_that_is_nearly_a_list_takes_no_longer(read):
    assert len(read(f"image,labels\na.jpg,\"['cat'{' ' * 100_000}x\"\n").classes) == 1


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [";", ",", "\t"])
def test_excel_is_told_what_parts_the_cells(read, mark, end):
    labels = read(end.join([f"sep={mark}", f"image{mark}labels", f"a.jpg{mark}cat|dog", ""]))
    assert labels == Labels(("cat", "dog"), {"a.jpg": (0, 1)})
    with pytest.raises(StclError, match="line 4: has 3 columns instead of 2"):
        read(end.join(["sep=;", "image;labels", "a.jpg;cat", "b.jpg;cat;dog", ""]))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.jpg;cat,dog", "b;cat"),  # a photo's suffix says where the first cell ends
        ("IMAGE;class", "a.jpg;cat,dog"),
        ("a.jpg\tcat;dog", "b\tcat"),
        ("class\timage", "cat|dog\ta.jpg"),
        ("image,fold,label", "a.jpg,1,cat;dog"),
    ],
)
def test_delimiters_and_columns(read, first, second):
    labels = read(f"{first}\n{second}\n")
    assert [labels.classes[index] for index in labels.by_name["a.jpg"]] == ["cat", "dog"]


def test_columns_of_booleans_behind_the_numbers_of_pandas(read):
    expected = Labels(("dog", "cat"), {"a": (1,), "b": (0,)})
    assert read(",image,dog,cat\n0,a,False,True\n1,b,TRUE,false\n") == expected


def test_many_rows_are_read_one_after_the_other(tmp_path):
    """A million rows took 0.9 GB; of one that is wrong the line is named, wherever it is."""
    path, rows = tmp_path / "labels.csv", 100_000
    text = "image,labels\n" + "".join(f"folder {n // 999}/photo {n}.jpg,class {n % 20};cat\n" for n in range(rows))
    path.write_text(text)
    tracemalloc.start()
    labels = read_labels(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(labels.by_name) == rows
    assert len(labels.classes) == 21
    assert peak < 300 * rows
    path.write_text(f"{text}a,b,c\n")
    with pytest.raises(StclError, match=rf"line {rows + 2}: has 3 columns instead of 2"):
        read_labels(path)


def test_a_photo_that_is_in_every_row(read):
    labels = read("image,label\n" + "".join(f"a.jpg,class {n % 50}\n" for n in range(20_000)))
    assert labels.by_name == {"a.jpg": tuple(range(50))}
