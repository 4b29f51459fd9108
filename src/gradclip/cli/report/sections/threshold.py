"""Which threshold to use: the advice, and where it lies among the norms."""

from gradclip.analysis import Advice, Suggestion
from gradclip.analysis.amounts import digits, percent
from gradclip.cli.report.facts import quantile
from gradclip.cli.report.figure import box, chart, choices
from gradclip.cli.report.findings import Findings, rounded
from gradclip.cli.report.html import Html, exact, tag, text
from gradclip.cli.report.runs import Run
from gradclip.cli.report.table import Column, table
from gradclip.cli.report.words import amount, shortened

COLUMNS = (
    Column("Threshold", numbers=False),
    Column("max_norm"),
    Column("95 % interval"),
    Column("Recorded steps clipped"),
    Column("Recorded norm cut off"),
)

LONGEST_NOTE = 600
"""Characters of a remark that are shown: names of parameters are in it."""

PERCENTILES = (1, 10, 50, 90, 99, 99.9, 100)


def threshold(findings: Findings) -> Html:
    """Return the advice, and the histogram with its thresholds."""
    advice = findings.first.advice
    parts = [tag("h2", text(f"Which threshold to use{findings.of}")), tag("p", text(advice.headline), id="advice")]
    if advice.suggestions:
        values = [rounded(each.max_norm) for each in advice.suggestions]
        chosen = values.index(advice.max_norm) if advice.max_norm in values else None
        rows = [_row(each) for each in advice.suggestions]
        parts.append(table("Suggested thresholds", COLUMNS, rows, chosen=chosen))
    if advice.usage:
        parts.append(tag("pre", tag("code", text(advice.usage.partition(": ")[2]))))
    parts.append(
        tag("ul", *(tag("li", text(shortened(note, LONGEST_NOTE))) for note in advice.notes), class_="small quiet")
    )
    if findings.histogram is not None:
        parts += [tag("h3", text("How the norms are spread")), _histogram(findings, advice)]
    return tag("section", *parts, id="threshold")


def _row(suggestion: Suggestion) -> list[Html]:
    name = suggestion.name
    return [
        text(name),
        exact(suggestion.max_norm, digits(suggestion.max_norm), id=f"advice-{name}"),
        text(f"{digits(suggestion.low)} to {digits(suggestion.high)}"),
        exact(suggestion.share_clipped, percent(suggestion.share_clipped)),
        exact(suggestion.share_removed, percent(suggestion.share_removed)),
    ]


def _histogram(findings: Findings, advice: Advice) -> Html:
    first = findings.first
    lines = ", ".join(f"{each.name} {digits(each.max_norm)}" for each in advice.suggestions)
    described = (
        f"Histogram of the gradient norms before clipping on a logarithmic scale: median {amount(first.facts.median)}, "
        f"99th percentile {amount(first.facts.p99)}, largest {amount(first.facts.largest)}."
        f"{f' Thresholds: {lines}.' if lines else ''}"
    )
    zeros = " Norms of 0 are left out." if any(bool((run.finite_norms == 0.0).any()) for run in findings.runs) else ""
    caption = f"Share of the steps in each bin. Lines are thresholds: solid suggested, dashed the one in use.{zeros}"
    figure = chart("histogram", described, text(caption), height=320, table=_quantiles(first.run))
    return tag(
        "div", tag("div", choices("Scale", box("logCounts", text("log scale of the steps"))), class_="bar"), figure
    )


def _quantiles(run: Run) -> Html:
    ordered = run.finite_norms.sort().values
    columns = (Column("Percentile", numbers=False), Column("Norm"))
    rows = [
        [text(f"{each:g}"), exact(quantile(ordered, each / 100), amount(quantile(ordered, each / 100)))]
        for each in PERCENTILES
    ]
    return table(f"Percentiles of the norms of {run.name}", columns, rows, class_="narrow")
