import pytest

from stcl_cli import console


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_words_go_to_stderr_as_they_are(capsys):
    console.say("x/[bold]a[/bold] :car: " + "long " * 40)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "x/[bold]a[/bold] :car: " + "long " * 40 + "\n"


def test_without_a_terminal_a_line_now_and_then(capsys, clock):
    with console.meter("train", 100, done=40) as gauge:
        for _ in range(60):
            clock[0] += 1
            gauge.advance(text="loss 1.0" if clock[0] == 3 else None)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "train 55/100  1.0/s  45 s left  loss 1.0"  # what a resumed run skipped is not speed
    assert lines[-1] == "train 100/100  1.0/s  done  loss 1.0"
    assert len(lines) == 4


@pytest.fixture
def verbosity():
    yield console.set_verbosity
    console.set_verbosity(0)


def test_quiet_leaves_warnings(capsys, verbosity):
    verbosity(-1)
    console.say("3 masks")
    console.detail("skipped x")
    with console.meter("train", 1) as gauge:
        gauge.advance()
    console.warn("2 inputs were skipped")
    assert capsys.readouterr() == ("", "stcl: 2 inputs were skipped\n")


def test_verbose_says_every_item_and_every_detail(capsys, verbosity):
    console.detail("before")
    verbosity(1)
    console.detail("skipped x")
    with console.meter("cam", 3) as gauge:
        for _ in range(3):
            gauge.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "skipped x"
    assert [line.split()[1] for line in lines[1:]] == ["1/3", "2/3", "3/3"]
