import pytest

from stcl_cli.data.labels import Labels, read_labels
from stcl_cli.errors import StclError


@pytest.fixture
def write(tmp_path):
    def write(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return write


def test_a_file_a_class(write):
    folder = write(dog="a.jpg\r\nsub dir/b.jpg\r\n", cat="\ufeff\nsub dir/b.jpg", emu="")
    assert read_labels(folder) == Labels(("cat", "dog", "emu"), {"sub dir/b.jpg": (0, 1), "a.jpg": (1,)})


def test_image_sets_of_voc(write):
    folder = write(
        train="a\n", trainval="a\nb\n", cat_train="a  1\n", cat_trainval="a  1\nb -1\n", hot_dog_train="a  0\n"
    )
    assert read_labels(folder) == Labels(("cat", "hot_dog"), {"a": (0, 1), "b": ()})


def test_a_plain_list_beside_image_sets_is_a_class_unless_it_is_their_subset(write):
    folder = write(cat="a 1\nb -1\n", dog="b\nc\n")
    assert read_labels(folder) == Labels(("cat", "dog"), {"a": (0,), "b": (1,), "c": (1,)})


def test_a_list_of_another_subset_is_no_class(write):
    folder = write(cat_train="a 1\nb -1\n", train="a\nb\n", trainval="a\nb\nc\n")
    assert read_labels(folder) == Labels(("cat",), {"a": (0,), "b": ()})


def test_lists_of_subsets_alone_are_no_labels(write):
    folder = write(train="a\n", val="b\n")
    with pytest.raises(StclError, match="its text files are called train, val, like parts of a data set, not like cl"):
        read_labels(folder)
    assert read_labels(folder, format="lists").classes == ("train", "val")


def test_subsets_with_synsets(write):
    folder = write(synsets="dog\ncat\n", train='a.jpg 1\n"my photo".jpg 0 1\n', val='b\n"z z.v1" 0\n"".jpg 1')
    expected = {"a.jpg": (1,), "my photo.jpg": (0, 1), "b": (), "z z.v1": (0,), ".jpg": (1,)}
    assert read_labels(folder) == Labels(("dog", "cat"), expected)
    assert read_labels(folder / "train.txt").by_name == {"a.jpg": (1,), "my photo.jpg": (0, 1)}


@pytest.mark.parametrize("line", ["a.jpg 2", "a.jpg -1", "a.jpg cat", 'a "b" c', "a.jpg 1.0", "a 99999999999999999999"])
def test_lines_that_are_not_of_subsets(write, line):
    folder = write(synsets="dog\ncat\n", train=f"b.jpg 0\n{line}\n")
    with pytest.raises(StclError, match=r"train.txt line 2: '.*' is not of ImageNet's lists; .* from 0 to 1"):
        read_labels(folder)


def test_names_that_are_no_utf8(write):
    folder = write(cat=b"caf\xe9.jpg\n")
    assert list(read_labels(folder).by_name) == ["caf\udce9.jpg"]  # as Python gives the name of such a file
