"""What is shown of a run: rows for a terminal, and one line for a file."""

import math
import time
from typing import NamedTuple, final

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from torch import Tensor

from gradclip.analysis.amounts import digits, percent, several
from gradclip.analysis.reading.order import spaced
from gradclip.analysis.series import Series
from gradclip.cli.events import described, events_of
from gradclip.cli.say import sayable
from gradclip.cli.sparkline import sparkline
from gradclip.cli.watch.session import Session
from gradclip.cli.words import amount, printable, shortened
from gradclip.records.alarms import MEANINGS, WINDOW

LABEL = 10
"""Columns of the names of rows."""

FRAME = 8
"""Columns around them."""

WIDEST = 120
"""Columns of a view, at most."""

NAME = 60
"""Characters of a name out of a file."""

SLOW = 10.0
"""Seconds of a step above which it is these that people think in, and not steps per second."""

PACE = 100
"""Steps whose times say how fast the run is."""

EVENTS = 3
"""Steps skipped or not finite that are named: the last ones."""


@final
class Row(NamedTuple):
    """A row of the view: a name, a text, and how it is coloured where there are colours."""

    name: str
    text: str
    style: str = ""


def rows(session: Session, width: int, encoding: str, *, meanings: bool = False) -> list[Row]:
    """Return the rows of a view of so many columns; a text may be longer, but for the curve."""
    run = session.file.run
    if run is None:
        return [Row("", _joined(*_situation(session)))]
    norms = run.norms[-WINDOW:]
    found = [
        *(Row("", note, "yellow") for note in _situation(session)),
        Row("step", _joined(f"{int(run.steps[-1]):,}", _pace(run), _age(session))),
        Row("norm", _joined(amount(norms[-1].item()), _known("loss", run.losses), _known("lr", run.lrs)), "bold"),
        Row("", sparkline(norms, _room(width), encoding), "cyan"),
        Row("", _range(norms)),
        Row("threshold", _joined(_threshold(run), f"coefficient {_coefficient(run)}", shortened(run.policy or ""))),
        Row("clipped", _clipped(run)),
        Row("skipped", _not_counted(run)),
        *(Row("", event, "yellow") for event in _events(run)),
        Row("worst", _worst(run)),
    ]
    for name, step in session.alarms.items():
        meaning = f": {MEANINGS.get(name, '')}" if meanings else ""
        found.append(Row("alarm", f"{name}, since step {step:,}{meaning}", "red"))
    return found if session.alarms else [*found, Row("alarms", "none", "green")]


def panel(session: Session, console: Console, hint: str = "", *, lines: int | None = None) -> Panel:
    """Return the view for a terminal, perhaps with a hint at its foot.

    Args:
        session: What is watched.
        console: The terminal.
        hint: What is said at the foot.
        lines: How many lines the view should have at most: if it has more, each row is cut to one.
    """
    width = min(console.width, WIDEST)
    found = rows(session, width - FRAME, console.encoding, meanings=True)
    whole = _framed(found, session, console, hint, width)
    if lines is None or len(console.render_lines(whole)) <= lines:
        return whole
    short = [row._replace(text=_cut(row.text, _room(width - FRAME))) for row in found]
    return _framed(short, session, console, hint, width)


def _framed(found: list[Row], session: Session, console: Console, hint: str, width: int) -> Panel:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, min_width=LABEL)
    grid.add_column(overflow="fold")
    for row in found:
        grid.add_row(Text(row.name, style="dim"), Text(sayable(row.text, console.encoding), style=row.style))
    title = Text(sayable(shortened(session.name, max(8, width - FRAME)), console.encoding))
    return Panel(grid, title=title, title_align="left", subtitle=Text(hint), subtitle_align="right", width=width)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: max(1, most - 3)]}\N{HORIZONTAL ELLIPSIS}"


def _room(width: int) -> int:
    """Return the columns beside the names of rows."""
    return max(1, width - LABEL - 1)


def plain(session: Session, console: Console) -> str:
    """Return the same rows as text."""
    found = rows(session, WIDEST, console.encoding)
    lines = [f"{row.name:<{LABEL}} {row.text}".rstrip() for row in found]
    return "\n".join([printable(session.name), *lines])


def line(session: Session) -> str:
    """Return the state in one line."""
    run = session.file.run
    if run is None:
        return f"{session.name}: {_joined(*_situation(session))}"
    alarms = ", ".join(session.alarms)
    return f"step {int(run.steps[-1]):,}: " + _joined(
        f"norm {amount(run.norms[-1].item())}",
        f"threshold {_threshold(run)}",
        f"coefficient {_coefficient(run)}",
        f"clipped {_clipped(run)}",
        f"skipped {_not_counted(run)}",
        _pace(run),
        _age(session),
        f"alarms: {alarms}" if alarms else "",
        *_situation(session),
    )


def _situation(session: Session) -> list[str]:
    """Return what is to be said about the file, and what its reader remarks, but for advice alone."""
    file = session.file
    said = [f"{file.anew}: started anew"] if file.anew else []
    if file.run is None:
        return [*said, f"waiting: {file.absent or file.why_none}"]
    if file.absent:
        said.append(f"{file.absent}: waiting for it to come back")
    for_advice = spaced(file.run.steps) if file.run.remarks else ()
    return said + [each.partition(". ")[0].rstrip(".") for each in file.run.remarks if each not in for_advice]


def _joined(*texts: str) -> str:
    return ", ".join(text for text in texts if text)


def _last(column: Tensor | None) -> float | None:
    """Return the number of the last step; None where it is not known."""
    value = math.nan if column is None else column[-1].item()
    return None if math.isnan(value) else value


def _known(name: str, column: Tensor | None) -> str:
    return "" if (value := _last(column)) is None else f"{name} {digits(value)}"


def _threshold(run: Series) -> str:
    return "none" if (value := _last(run.thresholds)) is None else amount(value)


def _coefficient(run: Series) -> str:
    norm, after = run.norms[-1].item(), _last(run.norms_after)
    return "not known" if after is None or not 0.0 < norm < math.inf else digits(after / norm)


def _not_counted(run: Series) -> str:
    skipped = 0 if run.skipped is None else int(run.skipped.sum())
    return f"{skipped:,}, not finite {int((~run.finite).sum()):,}"


def _clipped(run: Series) -> str:
    if run.clipped is None:
        return "not recorded"
    whole, recent = (percent(part.double().mean().item()) for part in (run.clipped, run.clipped[-WINDOW:]))
    if len(run) <= WINDOW:
        return f"{whole} of {several(len(run), 'step')}"
    return f"{recent} of the last {WINDOW}, {whole} of {len(run):,}"


def _range(norms: Tensor) -> str:
    finite = norms[norms.isfinite()]
    if not len(finite):
        return f"none of the last {several(len(norms), 'norm')} is finite"
    least, most = (amount(norm.item()) for norm in finite.aminmax())
    return f"{least} to {most} in the last {several(len(norms), 'step')}"


def _events(run: Series) -> list[str]:
    """Return the last steps that were skipped, or whose norm is not finite."""
    said = []
    for event in events_of(run)[-EVENTS:]:
        counts = [
            f"{shortened(name, NAME)} ({nans:,} NaN, {infinities:,} infinite)"
            for name, (nans, infinities) in list(event.nonfinite.items())[:3]
        ]
        more = len(event.nonfinite) - len(counts)
        said.append(_joined(f"step {event.step:,} {described(event)}", *counts, f"{more} more" if more > 0 else ""))
    return said


def _worst(run: Series) -> str:
    """Return whose norms were the largest when they were measured last."""
    if not run.worst:
        return "not recorded; GradClipper(norms_every=...) does"
    step, found = run.worst[-1]
    shares = [f"{shortened(name, NAME)} {'not finite' if math.isnan(x) else percent(x)}" for name, x in found]
    return f"{_joined(*shares)} of the squared norm at step {step:,}"


def _pace(run: Series) -> str:
    """Return how fast the last steps were, a pause between two processes left aside."""
    if run.times is None:
        return ""
    each = (run.times.diff() / run.steps.diff())[-PACE:]
    each = each[each > 0.0]
    if not len(each):
        return ""
    seconds = each.median().item()
    if seconds > SLOW:
        return f"{digits(seconds)} s/step"
    pace = digits(1.0 / seconds)
    return f"{pace} step{'' if pace == '1' else 's'}/s"


def _age(session: Session) -> str:
    if session.file.absent or not session.file.modified:
        return ""
    seconds = max(0.0, time.time() - session.file.modified)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"last line {seconds / size:.0f} {unit} ago"
    return f"last line {seconds:.0f} s ago"
