"""Norms, clip rate and loss over the steps."""

from gradclip.analysis.amounts import percent, several
from gradclip.cli.report.figure import box, chart, choices
from gradclip.cli.report.findings import Finding, Findings
from gradclip.cli.report.html import Html, exact, join, tag, text
from gradclip.cli.report.rate import rates, window_of
from gradclip.cli.report.stretches import stretches_of
from gradclip.cli.report.table import Column, table
from gradclip.cli.report.words import amount, count

BUTTONS = (
    ("closer", "Zoom in", "+"),
    ("wider", "Zoom out", "\N{MINUS SIGN}"),
    ("earlier", "Earlier steps", "\N{LEFTWARDS ARROW}"),
    ("later", "Later steps", "\N{RIGHTWARDS ARROW}"),
    ("all", "All steps", "All"),
)


def norms(findings: Findings) -> Html:
    """Return the charts over the steps, with their controls."""
    first = findings.first
    caption = (
        "Where a pixel stands for several steps, the band is from the smallest norm to the largest and the line is the "
        "median: no spike is lost, and zooming in shows every step. Crosses at the foot are steps that did not count."
    )
    parts = [
        tag("h2", text("Norms over the steps")),
        _controls(findings),
        chart("norms", _described(first), text(caption), height=400, table=_table(first)),
    ]
    if any(finding.run.clipped is not None for finding in findings.each):
        parts += [tag("h3", text("How often steps are clipped")), _rate(findings)]
    if any(_has_losses(finding) for finding in findings.each):
        words = "The loss of each step, as the run recorded it."
        parts += [tag("h3", text("Loss")), chart("loss", words, text(words), height=220)]
    return tag("section", *parts, id="norms")


def _has_losses(finding: Finding) -> bool:
    losses = finding.run.series.losses
    return losses is not None and bool(losses.isfinite().any())


def _controls(findings: Findings) -> Html:
    series = findings.first.run.series
    some_after = any(finding.run.series.norms_after is not None for finding in findings.each)
    some_threshold = any(finding.run.series.thresholds is not None for finding in findings.each)
    cut, kept = ("quiet", "quiet") if findings.many else ("cut", "run-1")
    shown = [box("before", text("before clipping"), swatch=cut)] if some_after else []
    if some_after:
        shown.append(box("after", text("after clipping"), swatch=kept, kind="dot" if findings.many else ""))
    if some_threshold:
        shown.append(box("threshold", text("threshold"), swatch="quiet" if findings.many else "ink", kind="dash"))
    shown.append(box("log", text("log scale")))
    runs = [
        box(f"runs.{place}", text(finding.run.name), swatch=f"run-{place + 1}")
        for place, finding in enumerate(findings.each)
    ]
    first, last = str(int(series.steps[0])), str(int(series.steps[-1]))
    fields = (
        tag("label", text(name), tag("input", type="number", id=name, value=value, step="1", autocomplete="off"))
        for name, value in (("from", first), ("to", last))
    )
    buttons = (
        tag("button", text(sign), type="button", id=name, aria_label=title, title=title)
        for name, title, sign in BUTTONS
    )
    return tag(
        "div",
        choices("Runs", *runs) if findings.many else Html(""),
        choices("Curves", *shown),
        choices("Steps", tag("span", text("Steps")), join(fields), tag("span", join(buttons), class_="buttons")),
        class_="bar",
    )


def _described(first: Finding) -> str:
    facts = first.facts
    clipped = "" if facts.clipped is None else f" {percent(facts.share_clipped)} of the steps are clipped."
    return (
        f"Line chart of the gradient norm over {several(facts.steps, 'step')} of {first.run.name}: median "
        f"{amount(facts.median)}, largest {amount(facts.largest)} at step {count(facts.largest_step)}.{clipped}"
    )


def _rate(findings: Findings) -> Html:
    said: list[str] = []
    window = window_of(findings.runs)
    for finding in findings.each:
        if finding.run.clipped is not None:
            highest = rates(finding.run.clipped, window)[window - 1 :].max().item()
            said.append(f"{percent(highest)}{f' of {finding.run.name}' if findings.many else ''}")
    words = f"Share of the last {several(window, 'step')} that were clipped: at most {', '.join(said)}."
    return chart("rate", words, text(words), height=200)


def _table(first: Finding) -> Html:
    columns = (Column("Steps", numbers=False), Column("Median norm"), Column("Largest norm"), Column("Clipped"))
    rows = [
        [
            text(f"{count(each.first)} to {count(each.last)}"),
            exact(each.median, amount(each.median)),
            exact(each.largest, amount(each.largest)),
            text("\N{EN DASH}")
            if each.share_clipped is None
            else exact(each.share_clipped, percent(each.share_clipped)),
        ]
        for each in stretches_of(first.run)
    ]
    return table("The run in stretches", columns, rows, class_="narrow")
