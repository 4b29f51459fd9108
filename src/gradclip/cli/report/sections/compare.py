"""Several runs side by side."""

import math

from gradclip.analysis.amounts import digits, percent
from gradclip.cli.report.findings import Finding, Findings
from gradclip.cli.report.html import Html, exact, tag, text
from gradclip.cli.report.table import Column, table
from gradclip.cli.report.words import amount, count

COLUMNS = (
    Column("Run", numbers=False),
    Column("Steps"),
    Column("Clipped"),
    Column("Median norm"),
    Column("99th percentile"),
    Column("Largest norm"),
    Column("Largest after"),
    Column("Skipped"),
    Column("Not finite"),
    Column("Threshold"),
    Column("Advised"),
)

NONE = "\N{EN DASH}"


def compare(findings: Findings) -> Html:
    """Return the table of all runs; nothing where there is one."""
    if not findings.many:
        return Html("")
    rows = [_row(finding, place) for place, finding in enumerate(findings.each)]
    said = (
        tag("li", tag("span", swatch(place), tag("strong", text(finding.run.name)), class_="run"), text(f" {sentence}"))
        for place, finding in enumerate(findings.each)
        for sentence in [finding.verdict.sentence]
    )
    numbers = table("The numbers of all runs", COLUMNS, rows)
    return tag("section", tag("h2", text("The runs")), numbers, tag("ul", *said, class_="plain"), id="runs")


def swatch(place: int) -> Html:
    """Return a sample of the colour of a run."""
    return tag("span", class_="swatch", style=f"--swatch: var(--run-{place + 1})", aria_hidden="true")


def _row(finding: Finding, place: int) -> list[Html]:
    facts, advice, run = finding.facts, finding.advice, finding.run
    threshold = run.threshold
    return [
        tag("span", swatch(place), text(run.name), class_="run"),
        exact(facts.steps, count(facts.steps)),
        text(NONE) if facts.clipped is None else exact(facts.share_clipped, percent(facts.share_clipped)),
        _norm(facts.median),
        _norm(facts.p99),
        _norm(facts.largest),
        _norm(facts.largest_after),
        text(NONE) if facts.skipped is None else exact(facts.skipped, count(facts.skipped)),
        exact(facts.nonfinite, count(facts.nonfinite)),
        text(NONE) if threshold is None else exact(threshold, amount(threshold)),
        text(NONE) if advice.max_norm is None else exact(advice.max_norm, digits(advice.max_norm)),
    ]


def _norm(value: float) -> Html:
    return text(NONE) if math.isnan(value) else exact(value, amount(value))
