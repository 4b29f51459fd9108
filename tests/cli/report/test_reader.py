"""The page for whoever reads it: in the dark, on a phone, by keyboard, on paper."""

from pathlib import Path

import pytest

from cli.report.browser import Page
from cli.report.looking import CHARTS, press, seen, settle, traces
from cli.report.made import TENSORS, reported, training, write


@pytest.mark.parametrize("colour", ["dark", "light"])
def test_the_theme_is_that_of_the_system_until_another_is_chosen(tab: Page, page_file: Path, colour: str) -> None:
    """What is written and drawn is turned around where the paper is dark, but for the map."""
    other = {"dark": "light", "light": "dark"}[colour]

    def theme() -> str:
        settle(tab)
        names = "['body', '#chart-heat .heatmaplayer:has(image)']"
        filters = set(tab.run(f"{names}.map((name) => getComputedStyle(document.querySelector(name)).filter)"))
        name = {(255, 255, 255): "light", (20, 20, 20): "dark"}[seen(tab)]
        assert filters == {"light": {"none"}, "dark": {"invert(0.92) hue-rotate(180deg)"}}[name]
        return name

    tab.prefer(color_scheme=colour)
    tab.open(page_file)
    assert theme() == colour
    tab.run(f"""document.querySelector('input[value="{other}"]').click()""")
    assert theme() == other
    tab.run("""document.querySelector('input[value="auto"]').click()""")
    assert theme() == colour
    tab.prefer(color_scheme=other)
    assert theme() == other


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
    """Fingers move the page; the buttons zoom, and have fingers do it."""
    tab.size(390, 844, phone=True)
    tab.open(page_file)
    assert tab.run("document.getElementById('chart-norms').layout.dragmode") is False
    press(tab, "norms", "Zoom in")
    assert tab.run("document.getElementById('chart-norms').layout.dragmode") is False
    press(tab, "norms", "Pan")
    assert tab.run("document.getElementById('chart-norms').layout.dragmode") == "pan"
    sizes = """[...document.querySelectorAll('button, label, summary')].map((e) =>
      e.getBoundingClientRect()).filter((box) => box.height > 0 && box.height < 24).length"""
    assert tab.run(sizes) == 0


def test_keys_reach_every_control_and_show_where_they_are(opened: Page) -> None:
    focused = """(({ id, dataset, name, ariaLabel, tagName }) => id || dataset.state || name || ariaLabel || tagName)(
      document.activeElement)"""
    reached: list[str] = []
    for _ in range(80):
        opened.key("Tab")
        reached.append(opened.run(focused))
    boxes = {"before", "after", "threshold", "log", "logCounts"}
    assert {"theme", "from", "to", "Zoom in", "Zoom out", "Pan", "Reset axes", "SUMMARY"} | boxes <= set(reached)
    opened.run("document.querySelector('#chart-norms [aria-label=\"Zoom in\"]').focus()")
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
    assert tab.run("charts.map((chart) => chart._fullLayout.width)") == [660] * len(CHARTS)
    tab.call("Emulation.setEmulatedMedia", media="print")
    assert tab.run("getComputedStyle(document.body).filter") == "none"
    assert seen(tab) == (255, 255, 255)
    tab.call("Emulation.setEmulatedMedia", media="")
    tab.prefer(color_scheme="dark")
    tab.run("dispatchEvent(new Event('afterprint'))")
    settle(tab)
    assert seen(tab) == (20, 20, 20)
    fits = "charts.every((chart) => chart._fullLayout.width === chart.clientWidth && chart.clientWidth > 1000)"
    assert tab.run(fits)


def test_paper_has_the_whole_list_of_steps_that_did_not_count(tab: Page, tmp_path: Path) -> None:
    """Nobody can scroll there."""
    records = training(100)
    for record in records[::5]:
        record.update(status="skipped_nonfinite", total_norm=None, nonfinite={name: [1, 0] for name in TENSORS})
    reported(write(tmp_path / "run.jsonl", records), tmp_path / "out.html")
    tab.open(tmp_path / "out.html")
    hidden = "(({ scrollHeight, clientHeight }) => scrollHeight - clientHeight)(document.querySelector('.scroll'))"
    assert tab.run(hidden) > 100
    tab.call("Emulation.setEmulatedMedia", media="print")
    assert tab.run(hidden) == 0
    tab.call("Emulation.setEmulatedMedia", media="")


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


def test_nothing_moves(opened: Page) -> None:
    """For nobody, and so not for who does not want it."""
    taken = "[...document.querySelectorAll('*')].map((e) => getComputedStyle(e).transitionDuration)"
    assert set(opened.run(taken)) == {"0s"}
