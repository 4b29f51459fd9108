"""What tests do with an open page: look at its charts, click, wait."""

import base64
import io
from typing import Any

import pytest
from PIL import Image

from cli.report.browser import Page

CHARTS = ["norms", "rate", "loss", "histogram", "policies", "heat"]


def traces(tab: Page, chart: str) -> list[dict[str, Any]]:
    """What a chart shows: the named curves, by name."""
    expression = f"""(({{ data, _fullData }}) => data.flatMap(({{ name, line, fill }}, i) => {{
      const {{ x, y, z, text, visible }} = _fullData[i];
      const [xs, ys] = [x, y].map((values) => visible && Array.from(values));
      const cells = z && z.map((row) => Array.from(row));
      return visible ? [{{ name, line, fill, text, x: xs, y: ys, z: cells }}] : [];
    }}))(document.getElementById("chart-{chart}"))"""
    return tab.run(expression)


def curve(tab: Page, chart: str, name: str) -> dict[float, float | None]:
    """The points of a curve."""
    (found,) = (trace for trace in traces(tab, chart) if trace.get("name") == name)
    return dict(zip(found["x"], found["y"], strict=True))


def settle(tab: Page) -> None:
    """Wait until everything is drawn that was asked for; a page hears what the system prefers at its next frame."""
    tab.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 30))))")
    tab.wait("stale.size === 0")


def click(tab: Page, name: str) -> None:
    """Click a box, by its state."""
    tab.run(f"""document.querySelector('[data-state="{name}"]').click()""")
    settle(tab)


def press(tab: Page, chart: str, title: str) -> None:
    """Click a button of a chart, which plotly answers when it has drawn."""
    tab.run(f"""new Promise((done) => {{
      const chart = document.getElementById("chart-{chart}");
      chart.once("plotly_relayout", () => setTimeout(done));
      chart.querySelector('button[aria-label="{title}"]').click();
    }})""")
    settle(tab)


def ends(tab: Page, chart: str = "norms") -> tuple[float, float]:
    """The first and the last step that a chart shows, which the fields say, and all charts over the whole run."""
    low, high = tab.run(f"document.getElementById('chart-{chart}').layout.xaxis.range")
    fields = tab.run("['from', 'to'].map((id) => Number(document.getElementById(id).value))")
    assert fields == [pytest.approx(low, abs=0.5), pytest.approx(high, abs=0.5)]
    for other in ("norms", "rate", "loss", "heat"):
        assert tab.run(f"document.getElementById('chart-{other}').layout.xaxis.range") == [low, high]
    return low, high


def drag(tab: Page, start: float, end: float) -> None:
    """Drag over the chart of the norms, from one share of its width to another."""
    tab.run("document.getElementById('chart-norms').scrollIntoView({ block: 'center' })")
    box = "document.querySelector('#chart-norms .nsewdrag').getBoundingClientRect()"
    left, top, width, height = tab.run(f"(({{ left, top, width, height }}) => [left, top, width, height])({box})")
    before = tab.run("shown[0]")
    tab.drag(left + width * start, left + width * end, top + height / 2)
    tab.wait(f"shown[0] !== {before}")
    settle(tab)


def seen(tab: Page) -> tuple[int, int, int]:
    """The colour of the paper as it is seen, at the upper left of the window."""
    tab.run("scrollTo(0, 0)")
    clip = {"x": 1, "y": 1, "width": 1, "height": 1, "scale": 1}
    data = tab.call("Page.captureScreenshot", clip=clip)["data"]
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        red, green, blue = picture.convert("RGB").getpixel((0, 0))
    return red, green, blue
