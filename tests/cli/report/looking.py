"""What tests do with an open page: look at its charts, click, wait."""

from typing import Any

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
    tab.wait("document.documentElement.dataset.busy === undefined")


def click(tab: Page, name: str) -> None:
    """Click a button or a box, by its id or its state."""
    tab.run(f"""document.querySelector('[id="{name}"], [data-state="{name}"]').click()""")
    settle(tab)
