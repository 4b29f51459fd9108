"""Tables that stay tables on a phone, where each row becomes a card."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, final

from gradclip.cli.report.html import Html, join, tag, text


@final
class Column(NamedTuple):
    """A column: its heading, and whether it holds numbers."""

    heading: str
    numbers: bool = True


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[Html]],
    *,
    class_: str = "cards",
    chosen: int | None = None,
) -> Html:
    """Return a table whose first column names the rows.

    Cells are shown as blocks on a phone, which takes the meaning from a table; the roles give it back.

    Args:
        caption: What is in it; for those who do not see the heading above it.
        columns: The columns.
        rows: A cell for each column.
        class_: How it is shown: `"cards"`, `"cards named"` where names are long, `"cards labelled"` where a name needs
            its heading to be understood, or `"narrow"` for few short columns that fit a phone as they are.
        chosen: The place of a row that stands out; None for none.
    """
    head = tag("tr", *(_heading(column) for column in columns), role="row")
    body = (
        tag("tr", *_cells(columns, row), role="row", class_="chosen" if place == chosen else False)
        for place, row in enumerate(rows)
    )
    return tag(
        "table",
        tag("caption", text(caption), class_="unseen"),
        tag("thead", head, role="rowgroup"),
        tag("tbody", join(body), role="rowgroup"),
        role="table",
        class_=class_,
    )


def _heading(column: Column) -> Html:
    kind = "number" if column.numbers else False
    return tag("th", text(column.heading), role="columnheader", scope="col", class_=kind)


def _cells(columns: Sequence[Column], row: Sequence[Html]) -> Iterable[Html]:
    for place, (column, cell) in enumerate(zip(columns, row, strict=True)):
        kind = "number" if column.numbers else "text"
        inside = tag("span", cell, class_="cell")
        if place == 0:
            yield tag("th", inside, role="rowheader", scope="row", class_=kind, data_label=column.heading)
        else:
            yield tag("td", inside, role="cell", class_=kind, data_label=column.heading)
