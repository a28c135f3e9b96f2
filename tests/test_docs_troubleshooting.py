"""docs/troubleshooting.md quotes messages; the code has to have them."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
QUOTED = re.findall(r"^\| `(.*?)` \|", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def messages():
    """Every string in the code, with … for what is put into it; strings that are only put together count as one."""
    found = set()
    for path in (*(ROOT / "stcl_cli").rglob("*.py"), *(ROOT / "models").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.add("".join(map(text_of, node.values)))
    return found


def text_of(part):
    if isinstance(part, ast.Constant):
        return part.value
    return "'…'" if part.conversion == ord("r") else "…"


def in_order(quoted, message):
    """Whether the message says what is quoted: the parts between the … of the quotation, in their order."""
    return re.search(".*".join(map(re.escape, quoted.split("…"))), message) is not None


def is_there(quoted, messages):
    """As one string, or what is wrong and the cure as one each: they may come from two places."""
    return any(in_order(quoted, message) for message in messages) or all(
        any(in_order(part, message) for message in messages) for part in quoted.removeprefix("…: ").split("; ")
    )


@pytest.mark.parametrize("quoted", QUOTED)
def test_the_code_has_the_message(messages, quoted):
    assert is_there(quoted, messages)


def test_it_would_be_noticed(messages):
    assert len(QUOTED) > 40
    assert not is_there("…: is not empty; give --force", messages)
    assert not is_there("…: is not quite empty; give --resume", messages)
