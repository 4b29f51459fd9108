"""The steps that did not count, with what made them so."""

from gradclip.analysis.amounts import several
from gradclip.analysis.series import Event
from gradclip.cli.report.events import culprits, described
from gradclip.cli.report.findings import Findings
from gradclip.cli.report.html import Html, code, exact, join, tag, text
from gradclip.cli.report.table import Column, table
from gradclip.cli.report.words import count

LISTED = 200
"""Events in the table: the first ones, which the others follow from as a rule."""

NAMED = 8
"""Parameters that are named in a row, and those that are named above the table."""

COLUMNS = (
    Column("Step", numbers=False),
    Column("What happened", numbers=False),
    Column("Parameters, with NaN and infinite elements", numbers=False),
)


def events(findings: Findings) -> Html:
    """Return the table of the events of the first run."""
    found = findings.first.events
    title = tag("h2", text(f"Steps that did not count{findings.of}"))
    if not found:
        words = "None: no step was skipped, and every norm is finite."
        if findings.first.facts.skipped is None:
            words = "Every norm is finite. Whether steps were skipped was not recorded."
        return tag("section", title, tag("p", text(words), class_="lead"), id="events")
    lead = f"{several(len(found), 'step')} skipped, or with a norm that is not finite."
    if len(found) > LISTED:
        lead += f" The first {LISTED} are listed."
    rows = (_row(event) for event in found[:LISTED])
    listed = table("Steps that were skipped or whose norm is not finite", COLUMNS, rows, class_="cards labelled")
    scrolled = tag("div", listed, class_="scroll", tabindex="0", role="region", aria_label="Steps that did not count")
    return tag(
        "section",
        title,
        tag("p", text(lead), class_="lead"),
        _who(found),
        scrolled if len(found) > NAMED else listed,
        id="events",
    )


def _who(found: list[Event]) -> Html:
    often = culprits(found)
    if not often:
        return Html("")
    named = [tag("li", code(name), text(f" at {several(times, 'step')}")) for name, times in often[:NAMED]]
    if len(often) > NAMED:
        named.append(tag("li", text(f"and {several(len(often) - NAMED, 'parameter')} more")))
    return tag("div", tag("p", text("Not finite most often:")), tag("ul", *named, class_="columns"))


def _row(event: Event) -> list[Html]:
    named = [
        tag("div", code(name), text(f" {count(nans)} NaN, {count(infinite)} infinite"))
        for name, (nans, infinite) in list(event.nonfinite.items())[:NAMED]
    ]
    if len(event.nonfinite) > NAMED:
        named.append(tag("div", text(f"and {len(event.nonfinite) - NAMED} more"), class_="quiet"))
    return [exact(event.step, count(event.step)), text(described(event)), join(named) if named else text("\N{EN DASH}")]
