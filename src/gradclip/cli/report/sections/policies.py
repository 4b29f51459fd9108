"""What other policies would have done."""

import math

from gradclip.analysis.amounts import percent, several
from gradclip.cli.report.figure import box, chart, choices
from gradclip.cli.report.findings import Findings
from gradclip.cli.report.html import Html, code, exact, join, tag, text
from gradclip.cli.report.policies import REPLAYED, Tried
from gradclip.cli.report.table import Column, table
from gradclip.cli.report.words import amount, count

COLUMNS = (
    Column("Policy", numbers=False),
    Column("Clipped"),
    Column("Skipped"),
    Column("Largest norm let through"),
    Column("Most steps held in a row"),
)


def policies(findings: Findings) -> Html:
    """Return the replays as a table, and their thresholds as a chart."""
    steps = findings.first.facts.steps
    over = f"the last {several(REPLAYED, 'step')}" if steps > REPLAYED else f"all {several(steps, 'step')}"
    lead = (
        f"Replayed over the recorded norms of {over} by the code that runs in training. Clipping changes the norms "
        "that follow; a replay cannot know that. Held steps are clipped or skipped."
    )
    legend = [
        box(f"policies.{place}", text(each.name), swatch=f"run-{place + 1}", kind="dash" if each.fixed else "")
        for place, each in enumerate(findings.tried)
    ]
    described = f"Line chart of the thresholds of {len(findings.tried)} policies over the steps."
    return tag(
        "section",
        tag("h2", text(f"What other policies would have done{findings.of}")),
        tag("p", text(lead), class_="lead"),
        table(
            "Replays of policies over the recorded norms",
            COLUMNS,
            [_row(each) for each in findings.tried],
            class_="cards named",
        ),
        tag("h3", text("Their thresholds over the steps")),
        tag("div", choices("Policies", *legend), class_="bar"),
        chart("policies", described, text("The band behind the lines is the recorded norm."), height=320),
        id="policies",
    )


def _row(each: Tried) -> list[Html]:
    played = each.replayed
    largest = played.largest_after
    return [
        join([text(each.name), tag("br"), tag("span", code(repr(each.policy)), class_="small quiet")]),
        exact(played.share_clipped, percent(played.share_clipped)),
        exact(played.share_skipped, percent(played.share_skipped)),
        text("none") if math.isnan(largest) else exact(largest, amount(largest)),
        exact(played.longest_held, count(played.longest_held)),
    ]
