"""The page: findings in, one file of HTML out that needs no other."""

import time
from collections.abc import Callable
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined
from plotly.offline import get_plotlyjs

import gradclip
from gradclip.analysis.amounts import digits, percent, several
from gradclip.cli.report.events import described
from gradclip.cli.report.facts import percentiles_of
from gradclip.cli.report.figures import figures_of
from gradclip.cli.report.figures.detail import deflated, details_of
from gradclip.cli.report.findings import Findings
from gradclip.cli.report.stretches import stretches_of
from gradclip.cli.report.words import amount, count, moment, printable, shortened
from gradclip.records.alarms import MEANINGS

FILTERS: tuple[Callable[..., str], ...] = (amount, count, described, digits, moment, percent, several, shortened)


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


def _environment() -> Environment:
    """Return the templates, into which no text gets but escaped, and without characters that nobody would see."""
    assets = files("gradclip.cli.report").joinpath("assets")
    environment = Environment(
        autoescape=True,
        finalize=_spelled_out,
        loader=FunctionLoader(lambda name: assets.joinpath(name).read_text("utf-8")),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters.update({function.__name__: function for function in FILTERS})
    return environment


def _spelled_out(value: object) -> object:
    return printable(value) if type(value) is str else value  # not of markup, which is made here
