"""Which tensors the norm is made of."""

import math

from gradclip.analysis.amounts import percent, several
from gradclip.cli.report.figure import chart
from gradclip.cli.report.findings import Findings
from gradclip.cli.report.html import Html, code, exact, join, tag, text
from gradclip.cli.report.table import Column, table
from gradclip.cli.report.tensors import MOST_ROWS, Listed, Tensors, listed
from gradclip.cli.report.words import amount, count

COLUMNS = (
    Column("Tensor", numbers=False),
    Column("Mean share of the squared norm"),
    Column("Largest share"),
    Column("Median norm"),
    Column("Largest norm"),
    Column("At step"),
)


def tensors(findings: Findings) -> Html:
    """Return the table of the tensors with the largest shares, and the heat map."""
    found = findings.tensors
    title = "Which tensors the norm is made of"
    if found is None:
        how = (
            text("Norms of single tensors were not recorded; "),
            code("GradClipper(..., norms_every=10)"),
            text(" does."),
        )
        return tag("section", tag("h2", text(title)), tag("p", *how, class_="lead"), id="tensors")
    rows = listed(found)
    many, known = len(found.names), len(found.steps)
    shown = "All" if len(rows) == many else f"The {len(rows)} with the largest shares of"
    lead = f"{shown} {several(many, 'tensor')}{findings.of}, from their norms at {several(known, 'step')}."
    return tag(
        "section",
        tag("h2", text(title)),
        tag("p", text(lead), class_="lead"),
        table("Tensors by their share of the squared norm", COLUMNS, [_row(row) for row in rows], class_="cards named"),
        tag("h3", text("Their norms over the steps")),
        _map(found, rows),
        id="tensors",
    )


def _map(found: Tensors, rows: list[Listed]) -> Html:
    height = min(MOST_ROWS, len(found.names))
    of = "" if height == len(found.names) else f" The {height} tensors with the largest shares are shown."
    cell = "A cell has the colour of the largest norm of its steps; empty, there is none."
    caption = f"Rows in the order of the model. {cell}{of}"
    top = f" The largest share has {rows[0].name}, {percent(rows[0].share)} on average." if rows else ""
    described = f"Heat map of the norms of {height} tensors over the steps.{top}"
    return chart("heat", described, text(caption), height=90 + 17 * height)


def _row(row: Listed) -> list[Html]:
    meter = tag("span", tag("span"), class_="meter", style=f"--share: {100 * row.share:.2f}%", aria_hidden="true")
    unknown = math.isnan(row.largest)
    return [
        code(row.name),
        join([exact(row.share, percent(row.share)), meter]),
        exact(row.largest_share, percent(row.largest_share)),
        text("none") if unknown else exact(row.median, amount(row.median)),
        text("none") if unknown else exact(row.largest, amount(row.largest)),
        text("none") if unknown else text(count(row.largest_step)),
    ]
