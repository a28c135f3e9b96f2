from stcl_cli.wording import counted, first_line, shown, some


def test_counted():
    assert [counted(number, "class") for number in (0, 1, 2000)] == ["0 classes", "1 class", "2,000 classes"]
    assert counted(2, "photo") == "2 photos"


def test_shown_is_one_printable_line():
    assert shown("sub dir/bär\n\udce4.jpg") == "sub dir/bär\\n\\udce4.jpg"


def test_some_of_many_names():
    assert some(["a", "b\n"]) == "a, b\\n"
    assert some([f"{number}" for number in range(2000)], limit=2) == "0, 1 and 1,998 more"


def test_the_first_line_of_an_error_or_its_kind():
    assert first_line(ValueError("short\nlong")) == "short"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"
