"""What is shown of a run: rows for a terminal, and one line for a file."""

import math
import time
from typing import TypeAlias

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from torch import Tensor

from gradclip.analysis.amounts import digits, percent, several
from gradclip.analysis.reading.order import spaced
from gradclip.analysis.series import Event, Series
from gradclip.cli.events import described, events_of
from gradclip.cli.say import sayable
from gradclip.cli.sparkline import sparkline
from gradclip.cli.watch.session import Session
from gradclip.cli.words import amount, printable, shortened
from gradclip.records.alarms import MEANINGS, WINDOW

LABEL, FRAME, WIDEST = 10, 8, 120
"""Columns of the names of rows, around the rows, and of a view, at most."""

NAME = 60
"""Characters of a name out of a file."""

SLOW = 10.0
"""Seconds of a step above which it is these that people think in, and not steps per second."""

PACE = 100
"""Steps whose times say how fast the run is."""

EVENTS = 3
"""Steps skipped or not finite that are named: the last ones."""

Row: TypeAlias = tuple[str, str, str]
"""The name of a row, its text, and how it is coloured where there are colours."""


def panel(session: Session, console: Console, hint: str = "", *, lines: int | None = None) -> Panel:
    """Return the view for a terminal.

    Args:
        session: What is watched.
        console: The terminal.
        hint: What is said at the foot.
        lines: How many lines the view should have at most: if it has more, each row is cut to one.
    """
    width = min(console.width, WIDEST)
    room = max(1, width - FRAME - LABEL - 1)
    found = _rows(session, room, console.encoding, meanings=True)
    title = Text(sayable(shortened(session.name, max(8, width - FRAME)), console.encoding))

    def framed(*, cut: bool) -> Panel:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True, min_width=LABEL)
        grid.add_column(overflow="fold")
        for name, text, style in found:
            said = sayable(_cut(text, room) if cut else text, console.encoding)
            grid.add_row(Text(name, style="dim"), Text(said, style=style))
        return Panel(grid, title=title, title_align="left", subtitle=Text(hint), subtitle_align="right", width=width)

    whole = framed(cut=False)
    return whole if lines is None or len(console.render_lines(whole)) <= lines else framed(cut=True)


def plain(session: Session, encoding: str) -> list[str]:
    """Return the same rows as lines of text."""
    rows = _rows(session, WIDEST - LABEL - 1, encoding)
    return [printable(session.name), *(f"{name:<{LABEL}} {text}".rstrip() for name, text, _ in rows)]


def line(session: Session) -> str:
    """Return the state in one line."""
    run = session.run
    if run is None:
        return f"{session.name}: {_joined(*_situation(session))}"
    alarms = ", ".join(session.alarms)
    return f"step {int(run.steps[-1]):,}: " + _joined(
        f"norm {amount(run.norms[-1].item())}",
        f"threshold {_threshold(run)}",
        f"clipped {_clipped(run)}",
        f"skipped {_not_counted(run)}",
        _pace(run),
        _age(session),
        f"alarms: {alarms}" if alarms else "",
        *_situation(session),
    )


def _rows(session: Session, room: int, encoding: str, *, meanings: bool = False) -> list[Row]:
    """Return the rows of a view with so many columns for texts; one may be longer, but for the curve."""
    run = session.run
    if run is None:
        return [("", _joined(*_situation(session)), "")]
    norms = run.norms[-WINDOW:]
    known = {"loss": _last(run.losses), "lr": _last(run.lrs)}
    alarms = [
        ("alarm", f"{name}, since step {step:,}{': ' + MEANINGS[name] if meanings else ''}", "red")
        for name, step in session.alarms.items()
    ]
    return [
        *(("", note, "yellow") for note in _situation(session)),
        ("step", _joined(f"{int(run.steps[-1]):,}", _pace(run), _age(session)), ""),
        (
            "norm",
            _joined(amount(norms[-1].item()), *(f"{name} {digits(x)}" for name, x in known.items() if x is not None)),
            "bold",
        ),
        ("", sparkline(norms, room, encoding), "cyan"),
        ("", _range(norms), ""),
        ("threshold", _joined(_threshold(run), shortened(run.policy or "")), ""),
        ("clipped", _clipped(run), ""),
        ("skipped", _not_counted(run), ""),
        *(("", _event(event), "yellow") for event in events_of(run)[-EVENTS:]),
        ("worst", _worst(run), ""),
        *(alarms or [("alarms", "none", "green")]),
    ]


def _situation(session: Session) -> list[str]:
    """Return what is to be said about the file, and what its reader remarks, but for advice alone."""
    run = session.run
    said = [f"{session.anew}: started anew"] if session.anew else []
    if run is None:
        return [*said, f"waiting: {session.lacking}"]
    if session.lacking:
        said.append(f"{session.lacking}: waiting for it to come back")
    for_advice = spaced(run.steps) if run.remarks else ()
    return said + [each.partition(". ")[0].rstrip(".") for each in run.remarks if each not in for_advice]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: max(1, most - 3)]}\N{HORIZONTAL ELLIPSIS}"


def _joined(*texts: str) -> str:
    return ", ".join(text for text in texts if text)


def _last(column: Tensor | None) -> float | None:
    """Return the number of the last step; None where it is not known."""
    value = math.nan if column is None else column[-1].item()
    return None if math.isnan(value) else value


def _threshold(run: Series) -> str:
    """Return the threshold, and what the norm was multiplied by."""
    norm, after, threshold = run.norms[-1].item(), _last(run.norms_after), _last(run.thresholds)
    coefficient = "not known" if after is None or not 0.0 < norm < math.inf else digits(after / norm)
    return f"{'none' if threshold is None else amount(threshold)}, coefficient {coefficient}"


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


def _event(event: Event) -> str:
    """Return what happened at a step that was skipped, or whose norm is not finite."""
    counts = [
        f"{shortened(name, NAME)} ({nans:,} NaN, {infinities:,} infinite)"
        for name, (nans, infinities) in list(event.nonfinite.items())[:3]
    ]
    more = len(event.nonfinite) - len(counts)
    return _joined(f"step {event.step:,} {described(event)}", *counts, f"{more} more" if more else "")


def _worst(run: Series) -> str:
    """Return whose norms were the largest when they were measured last."""
    if not run.worst:
        return "not recorded; GradClipper(norms_every=...) does"
    step, found = run.worst[-1]
    shares = [f"{shortened(name, NAME)} {'not finite' if math.isnan(x) else percent(x)}" for name, x in found]
    return f"{_joined(*shares)} of the squared norm at step {step:,}"


def _pace(run: Series) -> str:
    """Return how fast the last steps were, a pause between two processes left aside."""
    each = run.norms[:0] if run.times is None else (run.times.diff() / run.steps.diff())[-PACE:]
    seconds = each[each > 0.0].median().item() if (each > 0.0).any() else 0.0
    if not seconds:
        return ""
    if seconds > SLOW:
        return f"{digits(seconds)} s/step"
    pace = digits(1.0 / seconds)
    return f"{pace} step{'' if pace == '1' else 's'}/s"


def _age(session: Session) -> str:
    if session.lacking or not session.modified:
        return ""
    seconds = max(0.0, time.time() - session.modified)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"last line {seconds / size:.0f} {unit} ago"
    return f"last line {seconds:.0f} s ago"
