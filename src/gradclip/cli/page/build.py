"""The page: runs in, one file of HTML out that needs no other."""

import math
import re
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

import gradclip
from gradclip.analysis.amounts import digits, percent, several
from gradclip.analysis.series import Series
from gradclip.cli import target
from gradclip.cli.events import described
from gradclip.cli.page.figures.curves import deflated, details_of
from gradclip.cli.page.figures.heat import heat
from gradclip.cli.page.figures.histogram import histogram
from gradclip.cli.page.figures.over_steps import loss, norms, policies, rate
from gradclip.cli.page.figures.style import COLOURS
from gradclip.cli.page.run import Run, span_of, window_of
from gradclip.cli.page.verdict import verdict
from gradclip.cli.words import amount, count, printable, shortened
from gradclip.records.alarms import MEANINGS

UNKNOWN = "\N{EN DASH}"
"""In place of a number that is not known."""


def build(series: Sequence[Series], out: Path, *, force: bool = False) -> int:
    """Write the report over runs into a file.

    Args:
        series: The runs, of a step at least, which are called as their sources are; the report is about the first, and
            compares it with the others.
        out: The file.
        force: Whether to replace one that is there.

    Returns:
        Its size in bytes.

    Raises:
        UserError: If it cannot be written.
    """
    runs = [Run(each) for each in series]
    span = span_of(runs)
    charts = figures_of(runs)
    data = {
        "steps": span,
        "figures": {name: deflated(chart.to_json().encode()) for name, chart in charts.items()},
        "details": details_of(runs),
        "plotly": deflated(get_plotlyjs().encode()),  # a third of its size
    }
    page = _environment().get_template("page.html")
    found = {"run": runs[0], "runs": runs, "many": len(runs) > 1, "span": span, "window": window_of(runs)}
    made = {"colours": COLOURS, "meanings": MEANINGS, "version": gradclip.__version__, "written": time.time()}
    text = page.render(found, charts=charts, data=data, **made).encode()
    target.write("--out", out, text, force=force)
    return len(text)


def figures_of(runs: Sequence[Run]) -> dict[str, Figure]:
    """Return the charts by name, without those that there are no numbers for."""
    made = {chart.__name__: chart(runs) for chart in (norms, rate, loss, histogram, policies, heat)}
    return {name: figure for name, figure in made.items() if figure is not None}


def moment(seconds: float) -> str:
    """Return a moment given in seconds since 1970, in UTC."""
    try:
        return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, OSError, ValueError):
        return "not recorded"


def cell(value: float | None, words: str, name: str = "") -> str:
    """Return a number in words, and for programs with all its digits; a dash where it is not known.

    Args:
        value: The number.
        words: The filter that says it.
        name: An id by which it is found, if any.
    """
    if value is None or math.isnan(value):
        return UNKNOWN
    found = Markup(' id="{}"').format(name) if name else ""
    return Markup('<data value="{}"{}>{}</data>').format(value, found, FILTERS[words](value))


def prose(text: str) -> str:
    """Return text whose words in backticks are code."""
    plain, code = Markup("{}"), Markup("<code>{}</code>")
    parts = enumerate(re.split(r"`([^`]*)`", text))
    return Markup("").join((code if i % 2 else plain).format(part) for i, part in parts)


FILTERS: dict[str, Callable[..., object]] = {
    function.__name__: function
    for function in (amount, cell, count, described, digits, moment, percent, prose, several, shortened, verdict)
}


def _environment() -> Environment:
    """Return the templates, into which no text gets but escaped, and without characters that nobody would see."""
    assets = files("gradclip.cli.page").joinpath("assets")
    environment = Environment(
        autoescape=True,
        finalize=_spelled_out,
        loader=FunctionLoader(lambda name: assets.joinpath(name).read_text("utf-8")),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(FILTERS)
    return environment


def _spelled_out(value: object) -> object:
    return printable(value) if type(value) is str else value  # not of markup, which is made here
