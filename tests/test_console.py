import io
import re

import pytest
from rich.console import Console
from rich.table import Column, Table

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
    assert lines[0] == "train 55/100  1.0/s  0:00:45 left  loss 1.0"  # what a resumed run skipped is not speed
    assert lines[-1] == "train 100/100  1.0/s  done  loss 1.0"
    assert len(lines) == 4


def test_what_goes_on_between_two_items_is_told(capsys, clock, monkeypatch):
    def measure():
        with console.meter("train", 100, done=40) as gauge:
            gauge.advance(text="loss 1.0")
            for number in range(1, 31):
                clock[0] += 1
                gauge.tell(f"measuring {number}/30")
            gauge.advance()

    measure()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["train 41/100  measuring 15/30", "train 41/100  measuring 30/30"]
    screen = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=screen, force_terminal=True, width=80))
    measure()
    last = [line for line in screen.getvalue().replace("\r", "\n").split("\n") if "/100" in line][-1]
    assert "42/100" in last
    assert "loss 1.0" in last


def test_slow_items_are_told_by_their_seconds(capsys, clock):
    with console.meter("train", 20_000) as gauge:
        clock[0] = 20
        gauge.advance(0)
        clock[0] = 75
        gauge.advance()
    assert capsys.readouterr().err.splitlines() == ["train 0/20000", "train 1/20000  75 s each  17 days, 8:38:45 left"]


def test_a_bar_on_80_columns_shows_its_figures_whole(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=screen, force_terminal=True, width=80))
    with console.meter("segtrain", 20_000) as gauge:
        gauge.advance(12_345, text="loss 1.651 cls 0.703 cls_aux 0.696 patch 0.495 class 0.000 grad_norm 6.413")
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).replace("\r", "\n").split("\n")
    last = [line for line in lines if "loss" in line][-1]
    assert len(last) <= 80
    assert re.search(r"segtrain ━.* 12345/20000 .*-:--:-- loss 1.*…", last)


def test_a_dumb_terminal_gets_lines(monkeypatch):
    screen = io.StringIO()
    dumb = Console(file=screen, force_terminal=True, width=80, _environ={"TERM": "dumb"})
    monkeypatch.setattr(console, "console", dumb)
    with console.meter("cam", 1) as gauge:
        gauge.advance()
    assert screen.getvalue().startswith("cam 1/1")


def test_tables_fit_80_columns_and_hold_any_name(capsys):
    table = Table(Column("class", overflow="fold"), Column("IoU", no_wrap=True))
    table.add_row("[red]" + "Wort" * 30 + "[/]", "0.5")
    console.say_table(table)
    out, err = capsys.readouterr()
    assert out == ""
    assert max(map(len, err.splitlines())) <= 80
    assert (
        "".join(line.split("│")[1].strip() for line in err.splitlines() if "│" in line) == "[red]" + "Wort" * 30 + "[/]"
    )


def test_quiet_leaves_warnings(capsys):
    console.set_verbosity(-1)
    console.say("3 masks")
    console.detail("skipped x")
    with console.meter("train", 1) as gauge:
        gauge.advance()
    console.warn("2 inputs were skipped")
    assert capsys.readouterr() == ("", "stcl: 2 inputs were skipped\n")


def test_verbose_says_every_item_and_every_detail(capsys):
    console.detail("before")
    console.set_verbosity(1)
    console.detail("skipped x")
    with console.meter("cam", 3) as gauge:
        for _ in range(3):
            gauge.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "skipped x"
    assert [line.split()[1] for line in lines[1:]] == ["1/3", "2/3", "3/3"]


def test_quietly_is_over_at_its_end_and_left_as_it_was(capsys):
    with console.quietly():
        console.say("1")
    console.say("2")
    console.set_verbosity(-1)
    with console.quietly():
        pass
    console.say("3")
    assert capsys.readouterr().err == "2\n"
