import re
from html.parser import HTMLParser

import browser
import numpy as np
import pytest
from report_folders import CLASSES, NAMES

from stcl_cli.config import ReportConfig
from stcl_cli.report.page import MARK, legend, loss_charts, percent
from stcl_cli.stages import report

VOID = {"meta", "link", "img", "br", "hr", "line", "circle", "polyline", "input"}
needs_chromium = pytest.mark.skipif(not browser.CHROMIUM, reason="needs Chromium")


class Tree(HTMLParser):
    """Elements with their attributes, and the text; a tag that is not closed, or closed twice, is an error."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.text, self.open = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="session")
def page(world):
    """The report of everything, with truth."""
    path = world / "a report.html"
    config = ReportConfig(folders=(str(world / "out"),), truth=str(world / "truth"), output=str(path), photos=2)
    assert report.run(config).skipped == 0
    return path


def test_every_name_is_text_and_nothing_else(page):
    tree = Tree(page.read_text("utf-8"))
    tags = {tag for tag, _ in tree.elements}
    assert not {"script", "iframe", "object", "b>", "i>"} & tags
    attributes = {name for _, attributes in tree.elements for name in attributes}
    assert not [name for name in attributes if name.startswith("on")]
    text = "".join(tree.text)
    for name in (*CLASSES, *NAMES, "<b>&amp;", "<i>gone</i>", "is <b>empty</b>"):
        assert name in text
    pictures = [attributes["alt"] for tag, attributes in tree.elements if tag == "img"]
    assert {alt for alt in pictures if alt.endswith(": photo")} == {f"{name}: photo" for name in NAMES}


def test_the_page_asks_for_nothing(page):
    html = page.read_text("utf-8")
    for tag, attributes in Tree(html).elements:
        for name in ("src", "href", "srcset", "poster", "data", "action", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/", "data:,")), (tag, attributes)
        assert "url(" not in (attributes.get("style") or "")
    style = re.search("<style>(.*?)</style>", html, re.S)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"\w+://", re.sub(r"data:image/[^\"]*", "", html))
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    assert page.read_bytes().startswith(MARK)


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_a_real_browser_shows_it_without_a_request_or_a_complaint(page, dark):
    visit = browser.visit(page, dark=dark, script="document.querySelectorAll('details').forEach(d => d.open = true)")
    assert visit.requests == [page.as_uri()]
    assert visit.complaints == []
    assert visit.broken == 0


@needs_chromium
def test_the_browser_would_notice(page, tmp_path):
    html = page.read_text("utf-8")
    bad = '<img src="https://example.invalid/x.png"><img src="data:image/png,x"><script>1</script>'
    html = html.replace("<h1>", f"{bad}<h1>")
    (tmp_path / "bad.html").write_text(html)
    visit = browser.visit(tmp_path / "bad.html")
    assert len(visit.complaints) == 2  # the page's own policy refuses both
    assert visit.broken == 2
    (tmp_path / "worse.html").write_text(re.sub("<meta http-equiv[^>]*>", "", html))
    assert "https://example.invalid/x.png" in browser.visit(tmp_path / "worse.html").requests


def test_losses_become_charts():
    records = [{"iteration": i, "loss": 1 / i, "lr": 0.1, "grad_norm": 2.0, "seg": 0.5} for i in (10, 20, 30)]
    records += [
        {"iteration": 30, "val_miou": 0.25, "val_background": None, "odd": float("inf"), "word": "x", "huge": 10**400}
    ]
    charts = loss_charts(records)
    assert [(chart.title, chart.value) for chart in charts] == [
        ("loss", "0.0333"), ("seg", "0.5"), ("val_miou", "0.25"), ("lr", "0.1"), ("grad_norm", "2"),
    ]  # fmt: skip
    assert loss_charts([]) == []


def test_a_legend_names_what_is_there():
    keys = legend({0: 0.9, 2: 0.05, 1: 0.0001, 255: 0.04, 77: 0.01}, ("cat", "dog"))
    assert [(key.name, key.colour) for key in keys] == [
        ("background", "#000000"), ("dog", "#008000"), ("no class (77)", "#e00080"), ("ignored", "#ffffff"),
    ]  # fmt: skip


def test_percent():
    assert (percent(0.1234), percent(np.nan), percent(1.0, 0)) == ("12.3\u00a0%", "–", "100\u00a0%")
