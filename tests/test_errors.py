from stcl_cli.errors import PhotoError, StclError


def test_what_a_strangers_file_says_stays_in_one_line_that_can_be_read():
    assert str(StclError("x: format \x1f\n\u2028\udcff ä ü 漢")) == "x: format \\x1f\\n\\u2028\\udcff ä ü 漢"
    assert str(PhotoError("\x1b[2J")) == "\\x1b[2J"


def test_a_text_beyond_all_reason_loses_its_middle():
    text = str(StclError("file: " + "x" * 10**6 + "; the cure"))
    assert len(text) < 3000
    assert text.startswith("file: xx")
    assert text.endswith("xx; the cure")
