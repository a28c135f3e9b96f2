#!/usr/bin/env python3
"""The README's screenshots, made anew from what `stcl demo` left: real output in a real terminal and a real browser.

pip install pyte; apt-get install chromium
python examples/screenshots.py stcl-demo          # writes examples/report.jpg, check.svg and progress.svg
"""

from __future__ import annotations

import argparse
import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pyte
from PIL import Image
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
from browser import visit  # noqa: E402

COLUMNS, LINES = 100, 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="the folder that stcl demo wrote")
    demo = parser.parse_args().demo.absolute()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        spoil(demo / "scenes", work)
        check = "stcl check photos --labels labels.csv"
        write_svg(HERE / "check.svg", check, in_terminal(check, work))
        begun = lambda screen: any(re.search(r"train .* [6-9]\d/400 ", line) for line in screen.display)  # noqa: E731
        write_svg(HERE / "progress.svg", "stcl demo", in_terminal("stcl demo", work, until=begun))
        page = work / "report.html"
        subprocess.run([*stcl(), "-q", "report", demo, "--truth", demo / "scenes" / "truth", "-o", page], check=True)
        photograph(page, HERE / "report.jpg")


def spoil(scenes: Path, folder: Path) -> None:
    """A copy of the scenes with what real folders have: a photo cut short, one without labels, labels without photo."""
    shutil.copytree(scenes / "photos", folder / "photos")
    whole = (scenes / "photos" / "train_0000.jpg").read_bytes()
    (folder / "photos" / "IMG_0815.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "photos" / "new photo.jpg").write_bytes(whole)
    more = "IMG_0815.jpg,snail\nlost.jpg,cat;fish\n"
    (folder / "labels.csv").write_text((scenes / "labels.csv").read_text("utf-8") + more, "utf-8")


def stcl() -> list[str]:
    return [sys.executable, "-m", "stcl_cli"]


def in_terminal(command: str, folder: Path, until: Callable[[pyte.Screen], bool] | None = None) -> pyte.Screen:
    """What a terminal shows when `command` is done, or once `until` says so: then it is stopped as by Ctrl-C."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("4H", LINES, COLUMNS, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor", "PYTHONWARNINGS": "ignore"}
    arguments = [*stcl(), *command.split()[1:]]
    process = subprocess.Popen(arguments, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    while chunk := read(ours):
        stream.feed(chunk)
        if until and until(screen):
            process.terminate()
            break
    process.wait()
    os.close(ours)
    return screen


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # its other end is closed
        return b""


def write_svg(path: Path, command: str, screen: pyte.Screen) -> None:
    """The screen as an SVG that needs no font of the network."""
    rows = [row_text(screen, number) for number in range(LINES)]
    while not rows[-1].plain.strip():
        rows.pop()
    width = max(len(row.plain) for row in rows)
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=max(width, len(command) + 2), file=nowhere, force_terminal=True)
        console.print(Text(f"$ {command}", style="bold"))
        for row in rows:
            console.print(row)
        console.print()  # or the last line loses its underscores
        svg = console.export_svg(title="", theme=SVG_EXPORT_THEME)
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.S), encoding="utf-8")


def row_text(screen: pyte.Screen, number: int) -> Text:
    text = Text()
    for column in range(COLUMNS):
        cell = screen.buffer[number][column]
        colour = None if cell.fg == "default" else f"#{cell.fg}" if re.fullmatch("[0-9a-f]{6}", cell.fg) else cell.fg
        text.append(cell.data, Style(color=colour, bold=cell.bold, italic=cell.italics))
    text.rstrip()
    return text


def photograph(page: Path, target: Path) -> None:
    """The page from its figures down to the first photos."""
    script = "document.getElementById('accuracy').scrollIntoView()"
    with Image.open(io.BytesIO(visit(page, 1366, 1420, script=script).screenshot)) as picture:
        picture.convert("RGB").save(target, quality=80, optimize=True)


if __name__ == "__main__":
    main()
