"""The page: findings in, one file of HTML out."""

from importlib.resources import files
from string import Template
from typing import Any

from gradclip.cli.report.columns import columns_of
from gradclip.cli.report.events import marks_of
from gradclip.cli.report.findings import Findings, rounded
from gradclip.cli.report.html import Html, embedded, join, tag, text
from gradclip.cli.report.pack import deflated
from gradclip.cli.report.policies import data_of
from gradclip.cli.report.rate import rate_of, window_of
from gradclip.cli.report.sections import about, alarms, compare, events, norms, policies, tensors, threshold, top
from gradclip.cli.report.tensors import heat_of
from gradclip.cli.report.words import shortened

STYLES = ("colours", "type", "page", "charts", "tables", "narrow", "print")
SCRIPTS = ("unpack", "view", "theme", "frame", "curves", "maps", "controls", "main")


def page(findings: Findings, *, library: str, written: float, version: str) -> str:
    """Return the page.

    Args:
        findings: What it says.
        library: The source of plotly.js. It goes in deflated: a third of its size.
        written: When the report is written, in seconds since 1970.
        version: That of gradclip.
    """
    assets = files("gradclip.cli.report").joinpath("assets")

    def read(*names: str) -> str:
        return "\n".join(assets.joinpath(name).read_text("utf-8") for name in names)

    return Template(read("page.html")).substitute(
        title=text(f"{findings.first.run.name}: gradient clipping report"),
        version=text(version),
        style=read(*(f"{name}.css" for name in STYLES)),
        scheme=read("scheme.js"),
        body=body(findings, written, version),
        data=embedded(data(findings)),
        library=deflated(library.encode()),
        script=read(*(f"{name}.js" for name in SCRIPTS)),
    )


def body(findings: Findings, written: float, version: str) -> Html:
    """Return what is seen of the page."""
    main = tag(
        "main",
        top.verdict(findings.first),
        top.facts(findings.first.facts),
        compare.compare(findings),
        alarms.alarms(findings),
        norms.norms(findings),
        threshold.threshold(findings),
        policies.policies(findings),
        tensors.tensors(findings),
        events.events(findings),
        id="main",
        tabindex="-1",
    )
    missing = tag("noscript", tag("p", text("The charts need JavaScript; the tables do without.")))
    return join([top.top(findings, written, version), missing, main, about.about(findings)])


def data(findings: Findings) -> dict[str, Any]:
    """Return what the charts are drawn from."""
    window = window_of(findings.runs)
    runs = [
        {
            "name": shortened(finding.run.name),
            "curves": curves,
            "rate": rate_of(finding.run, window),
            "marks": marks_of(finding.events),
        }
        for finding, curves in zip(findings.each, columns_of(findings.runs), strict=True)
    ]
    return {
        "runs": runs,
        "histogram": None if findings.histogram is None else findings.histogram.data(),
        "suggested": _thresholds(findings),
        "policies": data_of(findings.first.run, findings.tried),
        "heat": None if findings.tensors is None else heat_of(findings.tensors),
    }


def _thresholds(findings: Findings) -> list[dict[str, Any]]:
    suggested = [
        {"name": each.name, "value": rounded(each.max_norm), "used": False}
        for each in findings.first.advice.suggestions
    ]
    used = findings.first.run.threshold
    return suggested if used is None else [*suggested, {"name": "in use", "value": used, "used": True}]
