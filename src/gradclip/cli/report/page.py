"""The page: findings in, one file of HTML out that needs no other."""

import math
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

import gradclip
from gradclip.analysis.amounts import digits, percent, several
from gradclip.cli.report.events import described
from gradclip.cli.report.facts import percentiles_of, stretches_of
from gradclip.cli.report.figures import figures_of
from gradclip.cli.report.figures.detail import deflated, details_of
from gradclip.cli.report.findings import Findings
from gradclip.cli.words import amount, count, printable, shortened
from gradclip.records.alarms import MEANINGS

UNKNOWN = "\N{EN DASH}"
"""In place of a number that is not known."""


def page_of(findings: Findings) -> str:
    """Return the page: its text, its charts, and the source of plotly.js, deflated to a third of its size."""
    charts = figures_of(findings)
    data = {
        "steps": findings.span,
        "figures": {name: deflated(chart.to_json().encode()) for name, chart in charts.items()},
        "details": details_of(findings.runs),
        "plotly": deflated(get_plotlyjs().encode()),
    }
    return (
        _environment()
        .get_template("page.html")
        .render(
            charts=charts,
            data=data,
            findings=findings,
            meanings=MEANINGS,
            percentiles=percentiles_of(findings.first.run),
            stretches=stretches_of(findings.first.run),
            version=gradclip.__version__,
            written=time.time(),
            zeros=any(bool((run.series.norms == 0.0).any()) for run in findings.runs),
        )
    )


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


FILTERS: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (amount, cell, count, described, digits, moment, percent, several, shortened)
}


def _environment() -> Environment:
    """Return the templates, into which no text gets but escaped, and without characters that nobody would see."""
    assets = files("gradclip.cli.report").joinpath("assets")
    environment = Environment(
        autoescape=True,
        extensions=["jinja2.ext.do"],
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
