"""What stands around a chart: what it shows in words, what to show of it, and its numbers as a table."""

from gradclip.cli.report.html import Html, tag, text


def chart(kind: str, described: str, caption: Html, *, height: int, table: Html | None = None) -> Html:
    """Return a chart that the page draws.

    Args:
        kind: Which one, as the scripts call it.
        described: What it shows, for those who do not see it: the main numbers in a sentence or two.
        caption: What is written below it.
        height: About how many pixels it will have, so that nothing moves when it appears.
        table: Its main numbers; they are hidden until asked for.
    """
    drawing = tag(
        "div",
        class_="chart",
        id=f"chart-{kind}",
        data_chart=kind,
        role="img",
        aria_label=described,
        style=f"--tall: {height}px",
    )
    more = Html("") if table is None else tag("details", tag("summary", text("These numbers as a table")), table)
    return tag("figure", drawing, tag("figcaption", caption), more)


def box(state: str, label: Html, *, swatch: str = "", kind: str = "") -> Html:
    """Return a box to tick that shows and hides something; as the legend, it has its colour.

    Args:
        state: What it changes, as the scripts call it.
        label: What it says.
        swatch: A colour of the style sheet, such as `run-1`; empty for none.
        kind: How the line is drawn: `""`, `"dash"`, `"dot"`, or `"cross"` for marks.
    """
    sample = Html("")
    if swatch:
        mark = text("\N{MULTIPLICATION X}") if kind == "cross" else Html("")
        sample = tag(
            "span", mark, class_=f"swatch {kind}".strip(), style=f"--swatch: var(--{swatch})", aria_hidden="true"
        )
    ticked = tag("input", type="checkbox", checked=True, data_state=state, autocomplete="off")
    return tag("label", ticked, sample, tag("span", label))


def choices(title: str, *boxes: Html) -> Html:
    """Return boxes that belong together."""
    return tag("fieldset", tag("legend", text(title), class_="unseen"), *boxes)
