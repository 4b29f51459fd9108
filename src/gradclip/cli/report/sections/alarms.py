"""The alarms of the run."""

from gradclip.analysis.amounts import several
from gradclip.cli.report.alarms import MEANINGS, Raised
from gradclip.cli.report.findings import Findings
from gradclip.cli.report.html import Html, tag, text
from gradclip.cli.report.words import count


def alarms(findings: Findings) -> Html:
    """Return what went wrong, and what to do; and where nothing did, that it was looked for."""
    items = [
        _item(alarm, f" in “{finding.run.name}”" if findings.many else "")
        for finding in findings.each
        for alarm in finding.alarms
    ]
    if items:
        shown = tag("ul", *items, class_="alarms")
    else:
        looked_for = ", ".join(MEANINGS)
        shown = tag("p", text(f"None. Looked for: {looked_for}."), class_="lead")
    return tag("section", tag("h2", text("Alarms")), shown, id="alarms")


def _item(alarm: Raised, where: str) -> Html:
    when = f", first at step {count(alarm.first_step)}"
    again = "" if alarm.times == 1 else f", {several(alarm.times, 'time')} in all"
    title = tag("strong", text(alarm.name[:1].upper() + alarm.name[1:]))
    return tag("li", title, text(f"{where}{when}{again}. {MEANINGS.get(alarm.name, '')}"))
