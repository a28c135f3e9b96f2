import shutil

import pytest
from PIL import Image

from stcl_cli.config import CheckConfig
from stcl_cli.data.inventory import describe, take_inventory
from stcl_cli.errors import StclError


@pytest.fixture
def take(tmp_path):
    for name in "abcd":
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / "photos" / f"{name}.jpg")

    def take(labels, **settings):
        (tmp_path / "labels.csv").write_text(labels)
        settings = {key: str(tmp_path / value) for key, value in settings.items()}
        return take_inventory(CheckConfig(images=str(tmp_path / "photos"), **settings), str(tmp_path / "labels.csv"))

    return take


def test_what_is_there(take, tmp_path):
    found = take("a,cat\nb,cat;dog\nc,\nz,dog\n")
    assert [(photo.name, shows) for photo, shows in found.labelled] == [("a", (0,)), ("b", (0, 1)), ("c", ())]
    assert found.unlabelled == [("d", f"no label in {tmp_path / 'labels.csv'}")]
    [(name, reason)] = found.missing
    assert name == "z"
    assert "has labels, but no photo" in reason
    assert found.counts() == {"cat": 2, "dog": 1}
    assert describe(found) == [
        "3 photos with labels (csv), 1 without, 1 label without a photo",
        "1 (dog) to 2 (cat) photos a class",
    ]
    assert found.warnings() == []


def test_with_a_list_labels_of_other_photos_are_no_mistake(take, tmp_path):
    (tmp_path / "list.txt").write_text("a\nb\nnone\n")
    found = take("a,cat\nb,dog\nc,cat\nz,dog\n", list="list.txt")
    assert [photo.name for photo in found.photos] == ["a", "b"]
    assert [name for name, _ in found.unread] == ["none"]
    assert found.missing == []


def test_classes_without_photos_and_on_all_photos(take, tmp_path):
    (tmp_path / "classes.txt").write_text("".join(f"{name}\n" for name in ("cat", "dog", *"uvwxyz")))
    assert take("a,dog;cat\nb,dog;cat\nc,dog\n", classes="classes.txt").warnings() == [
        "no photo shows u, v, w, x, y and 1 more: take the name out or add photos",
        "every photo shows dog: add photos without it, or nothing tells it from what is around it",
    ]


def test_a_word_for_photos_that_show_nothing_is_no_class(take):
    rows = "image,label\na,NOK\nb,OK\nc,OK\n"
    assert take(rows).warnings() == ["class OK sounds like photos that show nothing: if so, call it background"]
    found = take(rows.replace(",OK", ",background"))
    assert found.warnings() == []
    assert [shows for _, shows in found.labelled] == [(0,), (), ()]
    assert describe(found)[1] == "1 photo of class NOK"


def test_a_name_that_fits_several_photos_is_told(take, tmp_path):
    shutil.copy(tmp_path / "photos" / "a.jpg", tmp_path / "photos" / "a.png")
    [(name, reason)] = take("a,cat\nb,dog\n").missing
    assert name == "a"
    assert "has labels, and fits several photos; write its suffix" in reason
    with pytest.raises(StclError, match="'a' has labels, and fits several photos; write its suffix"):
        take("a,cat\n")


def test_a_rare_class_that_is_spelt_nearly_like_another_is_named(take):
    (warning,) = take("a,sheep;Cow\nb,sheeep\nc,sheep;cat\n").warnings()
    assert warning.startswith("class sheeep (1) is spelt nearly like sheep (2)")
    assert "Cat (1) is spelt nearly like cat (2)" in take("a,cat\nb,Cat\nc,cat\n").warnings()[0]
    assert take("a,cat\nb,car\nc,cat\n").warnings() == []


def test_classes_that_differ_in_case_alone_and_classes_in_one(take):
    (warning,) = take("a,Dog\nb,Dog\nc,dog\nd,dog\n").warnings()
    assert warning.startswith("class dog (2) is spelt nearly like Dog (2)")
    joint = 'a,"cat,dog"\nb,dog\nc,"bicycle, two wheels"\n'
    assert take(joint).warnings() == ["class cat,dog looks like several in one: write ';' between classes"]
    pairs = take('a,"cat, dog"\nb,"dog, sofa"\nc,"bicycle, two wheels"\n').warnings()  # none stands alone
    assert [line.split(" looks")[0] for line in pairs] == ["class cat, dog", "class dog, sofa"]


def test_classes_of_few_photos_are_told(take, tmp_path):
    for number in range(11):
        shutil.copy(tmp_path / "photos" / "a.jpg", tmp_path / "photos" / f"{number}.jpg")
    rows = "".join(f"{number},dog\n" for number in range(10)) + "".join(f"{name},pig\n" for name in "abcd")
    assert take(rows + "10,pig\n").warnings() == []
    assert take("".join(rows.splitlines(True)[1:])).warnings() == []  # nor of many
    assert take(rows + "10,dog\n").warnings() == [
        "few photos show pig (4): a class of less than 5 is hardly learnt; add photos of it"
    ]


def test_names_that_match_nothing(take):
    with pytest.raises(StclError, match=r"none of its names is a photo in .*photos; it names '1.jpg', there is 'a'"):
        take("1.jpg,cat\n2.jpg,dog\n")


def test_a_photo_in_several_class_folders_is_told(tmp_path):
    for name, colour in (("dog/a", 1), ("sofa/a", 1), ("dog/b", 2), ("sofa/b", 3), ("dog/c", 4)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 2), (colour,) * 3).save(tmp_path / f"{name}.png")
    found = take_inventory(CheckConfig(images=str(tmp_path)), str(tmp_path))
    assert found.counts() == {"dog": 3, "sofa": 2}
    (warning,) = found.warnings()
    assert warning.startswith("a.png: in several class folders, where each copy counts as a photo of that class alone;")


def test_a_header_in_unknown_words_is_told(take, tmp_path):
    rows = "a.jpg;cat\nb.jpg;dog\n"
    assert take("Dateiname;Klassen\n" + rows).warnings() == [
        "no photo is called Dateiname, and none shows Klassen: if that is the table's header, make it image,labels"
    ]
    assert take("z.jpg;cat\n" + rows).warnings() == []  # a photo that is not there, of a class that others show
    gone = "image,labels\ngone.jpg,cow\na.jpg,cat\nb.jpg,dog\n"  # a header there is
    assert take(gone).warnings() == ["no photo shows cow: take the name out or add photos"]
    assert take(rows + "z.jpg;cow\n").warnings() == ["no photo shows cow: take the name out or add photos"]


def test_a_photo_that_cannot_be_read_is_missing_once(take, tmp_path):
    for name in ("x.HEIC", "y.heic"):
        (tmp_path / "photos" / name).touch()
    found = take("a,cat\nb,dog\nx.HEIC,cat\ny,cat\n")
    reason = "is of a kind that is not read; convert it to JPEG or PNG"
    assert found.unread == [("x.HEIC", reason), ("y.heic", reason)]
    assert found.missing == []
    assert describe(found)[0] == "2 photos with labels (csv), 2 without, 0 labels without a photo, 2 not read"
