"""Names out of a file do nothing but stand there."""

import html
from pathlib import Path
from typing import Any

import pytest

from cli.report.browser import Page
from cli.report.made import reported, training, write
from cli.report.markup import parsed
from cli.report.packed import figure_of

NAMES = (
    "</script><script>window.hit = 1</script>",
    '"><img src=x onerror="window.hit = 2">',
    "'; window.hit = 3; //",
    "<!--<script>",
    '<a href="javascript:window.hit = 4">tensor</a>',
    "<b>bold</b>&lt;i&gt;",
    "%{x} ${1} {{2}}",
    "\u2028\u2029\u202e\x00\n\x1b[31m",
    "n" * 5000,
)


def hostile() -> list[dict[str, Any]]:
    records = training(400, every=0)
    for record in records:
        record["policy"] = NAMES[0]
        if record["step"] % 9 == 0:
            record["norms"] = {name: 1.0 + i for i, name in enumerate(NAMES)}
        if record["nonfinite"] is not None:
            record["nonfinite"] = {name: [1, 2] for name in NAMES}
    return records


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report over runs whose files have such names too."""
    folder = tmp_path_factory.mktemp("hostile")
    first = write(folder / "<img src=x onerror=alert(1)>.jsonl", hostile())
    second = write(folder / "'\"&<\u202e.jsonl", hostile())
    reported(first, folder / "out.html", second)
    return folder / "out.html"


def test_names_are_text_in_the_source(page: Path) -> None:
    tree = parsed(page.read_text("utf-8"))
    assert [element.name for element in tree.everything() if element.name in {"img", "a", "b", "i", "iframe"}] == ["a"]
    assert len(tree.all("script")) == 2
    handlers = [key for element in tree.everything() for key in element.attributes if key.startswith("on")]
    assert handlers == []
    shown = {element.text for element in tree.all("code")}
    assert set(NAMES[:7]) <= shown
    assert "\\u2028\\u2029\\u202e\\x00\\n\\x1b[31m" in shown
    assert f"{'n' * 79} \N{HORIZONTAL ELLIPSIS} {'n' * 79}" in shown
    heat = figure_of(page.read_text("utf-8"), "heat")
    assert [row[0] for row in heat["data"][0]["text"][:7]] == [html.escape(name, quote=False) for name in NAMES[:7]]


def test_names_are_inert_in_a_browser(tab: Page, page: Path) -> None:
    tab.open(page)
    assert tab.run("document.documentElement.dataset.charts") == "drawn"
    assert tab.run("window.hit") is None
    assert tab.complaints() == []
    assert [address for address in tab.requests() if not address.startswith(("data:", "file:"))] == []
    assert tab.run("document.querySelectorAll('svg a, svg b, svg image[href^=x], main img').length") == 0
    labels = tab.run("[...document.querySelectorAll('#chart-heat .ytick text')].map((e) => e.textContent)")
    assert labels[1:4] == ["\u2026" + NAMES[1][-33:], NAMES[2], NAMES[3]]
    assert tab.run("document.documentElement.scrollWidth") == 1440


def test_hovering_shows_names_as_they_are(tab: Page, page: Path) -> None:
    tab.open(page)
    text = tab.run("document.getElementById('chart-heat').data[0].text.map((row) => row[0].split('<br>')[0])")
    assert text[4] == '&lt;a href="javascript:window.hit = 4"&gt;tensor&lt;/a&gt;'
    assert text[5] == "&lt;b&gt;bold&lt;/b&gt;&amp;lt;i&amp;gt;"
    names = tab.run("document.getElementById('chart-norms').data.map((trace) => trace.name).filter(Boolean)")
    assert names[0] == "&lt;img src=x onerror=alert(1)&gt;.jsonl: before clipping"
