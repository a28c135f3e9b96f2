"""SECURITY.md names the tests that look after its promises; they have to be there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "SECURITY.md").read_text("utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)


def is_there(file, test):
    path = ROOT / file
    if not path.is_file():
        return False
    functions = {node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)}
    return not test or (test.startswith("test_") and test in functions)


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_a_promise_has_its_test(file, test):
    assert is_there(file, test)


def test_every_promise_names_some():
    promises = re.split(
        r"^\*\*\d+\. ", PAGE.split("## What is promised")[1].split("What is not promised")[0], flags=re.M
    )
    assert len(promises) == 10
    assert all("::test_" in promise for promise in promises[1:])


def test_it_would_be_noticed():
    assert len(NAMED) > 50
    assert not is_there("tests/test_gone.py", "test_x")
    assert not is_there("tests/test_docs_security.py", "test_gone")
