"""The page for whoever reads it: in the dark, on a phone, by keyboard, on paper."""

from pathlib import Path

import pytest

from cli.report.browser import Page
from cli.report.looking import CHARTS, settle, traces


@pytest.mark.parametrize("colour", ["dark", "light"])
def test_the_theme_is_that_of_the_system_until_another_is_chosen(tab: Page, page_file: Path, colour: str) -> None:
    """Charts follow, and the choice lasts."""
    other = {"dark": "light", "light": "dark"}[colour]
    pages = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}

    def seen() -> str:
        settle(tab)
        chart = tab.run("document.getElementById('chart-norms')._fullLayout.paper_bgcolor")
        page = tab.run("getComputedStyle(document.documentElement).backgroundColor")
        (name,) = (name for name, value in pages.items() if value == page)
        assert chart == {"light": "#ffffff", "dark": "#14171c"}[name]
        return name

    tab.prefer(color_scheme=colour)
    tab.open(page_file)
    assert seen() == colour
    tab.run(f"""document.querySelector('input[value="{other}"]').click()""")
    assert seen() == other
    tab.open(page_file)
    assert seen() == other
    tab.run("""document.querySelector('input[value="auto"]').click()""")
    assert seen() == colour
    tab.prefer(color_scheme=other)
    assert seen() == other


@pytest.mark.parametrize("width", [320, 390, 768, 1440])
def test_nothing_is_wider_than_the_window(tab: Page, page_file: Path, width: int) -> None:
    tab.size(width, 844, phone=width < 600)
    tab.open(page_file)
    assert tab.run("innerWidth") == width
    assert tab.run("document.documentElement.scrollWidth") <= width
    too_wide = """[...document.querySelectorAll('main *, header *, footer *')].filter((e) => {
      const box = e.getBoundingClientRect();
      return box.width > 1 && (box.right > innerWidth + 1 || box.left < -1) && !e.closest('svg, .unseen, .scroll');
    }).map((e) => e.outerHTML.slice(0, 80))"""
    assert tab.run(too_wide) == []


def test_a_phone_can_scroll_over_the_charts(tab: Page, page_file: Path) -> None:
    """Fingers move the page; the buttons zoom."""
    tab.size(390, 844, phone=True)
    tab.open(page_file)
    assert tab.run("document.getElementById('chart-norms').layout.dragmode") is False
    sizes = """[...document.querySelectorAll('button, label, summary')].map((e) =>
      e.getBoundingClientRect()).filter((box) => box.height > 0 && box.height < 24).length"""
    assert tab.run(sizes) == 0


def test_keys_reach_every_control_and_show_where_they_are(opened: Page) -> None:
    focused = "(({ id, dataset, name, tagName }) => id || dataset.state || name || tagName)(document.activeElement)"
    reached: list[str] = []
    for _ in range(60):
        opened.key("Tab")
        reached.append(opened.run(focused))
    boxes = {"before", "after", "threshold", "log", "logCounts"}
    assert {"theme", "from", "to", "closer", "wider", "earlier", "later", "SUMMARY"} | boxes <= set(reached)
    opened.run("document.getElementById('closer').focus()")
    opened.key("Enter")
    settle(opened)
    assert opened.run("document.getElementById('chart-norms').layout.xaxis.range[0]") == 500.75
    opened.run("document.querySelector('[data-state=after]').focus()")
    opened.key(" ")
    settle(opened)
    assert "after clipping" not in {trace.get("name") for trace in traces(opened, "norms")}
    assert opened.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_paper_is_light_and_charts_fit_it(tab: Page, page_file: Path) -> None:
    tab.prefer(color_scheme="dark")
    tab.open(page_file)
    tab.run("dispatchEvent(new Event('beforeprint'))")
    assert tab.run("document.getElementById('chart-norms')._fullLayout.paper_bgcolor") == "#ffffff"
    widths = tab.run("[...document.querySelectorAll('[data-chart]')].map((e) => e.layout.width)")
    assert widths == [660] * len(CHARTS)
    tab.run("dispatchEvent(new Event('afterprint'))")
    settle(tab)
    assert tab.run("document.getElementById('chart-norms')._fullLayout.paper_bgcolor") == "#14171c"
    fits = "charts.every((chart) => chart._fullLayout.width === chart.clientWidth && chart.clientWidth > 1000)"
    assert tab.run(fits)


def test_charts_are_as_wide_as_the_window_lets_them(opened: Page) -> None:
    for width in (700, 1000):
        opened.size(width, 900)
        opened.wait(f"charts.every((chart) => chart._fullLayout.width === {width} - 48)")


def test_an_old_browser_shows_the_tables_and_says_why_there_are_no_charts(tab: Page, page_file: Path) -> None:
    """One that cannot inflate what is packed."""
    gone = tab.call("Page.addScriptToEvaluateOnNewDocument", source="delete window.DecompressionStream")
    try:
        tab.open(page_file)
        assert tab.run("document.documentElement.dataset.charts") == "failed"
        assert tab.run("document.getElementById('chart-norms').textContent").startswith("This browser cannot draw")
        assert tab.run("document.getElementById('fact-steps').textContent") == "2,000"
    finally:
        tab.call("Page.removeScriptToEvaluateOnNewDocument", identifier=gone["identifier"])


@pytest.mark.parametrize(("wish", "seconds"), [("reduce", "0s"), ("no-preference", "0.12s")])
def test_nothing_moves_for_who_does_not_want_it(tab: Page, page_file: Path, wish: str, seconds: str) -> None:
    tab.prefer(reduced_motion=wish)
    tab.open(page_file)
    assert tab.run("getComputedStyle(document.getElementById('closer')).transitionDuration") == seconds
