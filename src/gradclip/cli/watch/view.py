"""What is shown of a run: rows for a terminal, and one line for a file."""

import math
import time
from typing import NamedTuple, final

import torch
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gradclip.analysis.amounts import digits, percent, several
from gradclip.cli.sparkline import sparkline
from gradclip.cli.watch.session import Session
from gradclip.cli.watch.state import Rates
from gradclip.cli.words import amount, printable, shortened
from gradclip.records import ClipRecord
from gradclip.records.alarms import MEANINGS, WINDOW

LABEL = 10
"""Columns of the names of rows."""

FRAME = 8
"""Columns around them."""

WIDEST = 120
"""Columns of a view, at most."""

NAME = 60
"""Characters of a name out of a file."""

SLOW = 0.1
"""Steps per second below which it is seconds per step that people think in."""

NONE_YET = "no record yet"


@final
class Row(NamedTuple):
    """A row of the view: a name, a text, and how it is coloured where there are colours."""

    name: str
    text: str
    style: str = ""


def rows(session: Session, width: int, encoding: str, *, meanings: bool = False) -> list[Row]:
    """Return the rows of a view of so many columns; a text may be longer, but for the curve."""
    state = session.state
    last = state.last
    if last is None:
        return [*_situation(session), Row("", f"waiting: {session.found.absent or NONE_YET}")]
    pace = state.steps_per_second()
    whole, recent = state.all(), state.recent()
    found = [
        *_situation(session),
        Row("step", _joined(f"{last.step:,}", "" if pace is None else f"{_pace(pace)}", _age(session))),
        Row("norm", _joined(amount(last.total_norm), *_known("loss", last.loss), *_known("lr", last.lr)), "bold"),
        Row("", sparkline(torch.tensor(state.norms), max(1, width - LABEL - 1), encoding), "cyan"),
        Row("", _range(state.norms)),
        Row("threshold", _joined(_threshold(last), f"coefficient {_coefficient(last)}", shortened(last.policy))),
        Row("clipped", _clipped(recent, whole)),
        Row("skipped", _joined(f"{whole.skipped:,}", f"not finite {whole.nonfinite:,}")),
        *(Row("", _event(event), "yellow") for event in state.events),
        Row("worst", _worst(state.worst)),
    ]
    for name, step in state.alarms.items():
        meaning = f": {MEANINGS.get(name, '')}" if meanings else ""
        found.append(Row("alarm", f"{name}, since step {step:,}{meaning}", "red"))
    if not state.alarms:
        found.append(Row("alarms", "none", "green"))
    return found


def panel(session: Session, console: Console, hint: str = "q quits") -> Panel:
    """Return the view for a terminal, with a hint at its foot."""
    width = min(console.width, WIDEST)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, min_width=LABEL)
    grid.add_column(overflow="fold")
    for row in rows(session, width - FRAME, console.encoding, meanings=True):
        grid.add_row(Text(row.name, style="dim"), Text(_sayable(row.text, console.encoding), style=row.style))
    title = Text(_sayable(shortened(str(session.path), max(8, width - FRAME)), console.encoding))
    return Panel(grid, title=title, title_align="left", subtitle=Text(hint), subtitle_align="right", width=width)


def plain(session: Session, console: Console) -> str:
    """Return the same rows as text."""
    found = rows(session, WIDEST, console.encoding)
    lines = [f"{row.name:<{LABEL}} {row.text}".rstrip() for row in found]
    return "\n".join([printable(str(session.path)), *lines])


def line(session: Session) -> str:
    """Return the state in one line."""
    last = session.state.last
    notes = [row.text for row in _situation(session)]
    if last is None:
        return f"{session.path}: {_joined(*notes, f'waiting: {session.found.absent or NONE_YET}')}"
    pace = session.state.steps_per_second()
    whole = session.state.all()
    alarms = ", ".join(session.state.alarms)
    return f"step {last.step:,}: " + _joined(
        f"norm {amount(last.total_norm)}",
        f"threshold {_threshold(last)}",
        f"coefficient {_coefficient(last)}",
        f"clipped {_clipped(session.state.recent(), whole)}",
        f"skipped {whole.skipped:,}",
        f"not finite {whole.nonfinite:,}",
        "" if pace is None else _pace(pace),
        _age(session),
        f"alarms: {alarms}" if alarms else "",
        *notes,
    )


def _situation(session: Session) -> list[Row]:
    """Return what is to be said about the file."""
    found, state = session.found, session.state
    said: list[str] = []
    if session.anew:
        said.append(f"{session.anew}: started anew")
    if found.absent and state.last is not None:
        said.append(f"{found.absent}: waiting for it to come back")
    if found.behind > 0:
        said.append(f"reading: {percent(found.reached / found.size)} of {found.size / 1e6:,.0f} MB")
    if state.returns:
        said.append(f"the run went back {several(state.returns, 'time')}: later lines count")
    if session.torn:
        said.append(f"{several(session.torn, 'torn line')} left out")
    return [Row("", text, "yellow") for text in said]


def _joined(*texts: str) -> str:
    return ", ".join(text for text in texts if text)


def _known(name: str, value: float | None) -> list[str]:
    return [] if value is None else [f"{name} {digits(value)}"]


def _threshold(record: ClipRecord) -> str:
    return "none" if record.threshold is None else amount(record.threshold)


def _coefficient(record: ClipRecord) -> str:
    return "not known" if math.isnan(record.coefficient) else digits(record.coefficient)


def _clipped(recent: Rates, whole: Rates) -> str:
    if whole.clipped is None or recent.clipped is None:
        return "not recorded"
    if whole.steps <= WINDOW:
        return f"{percent(whole.clipped)} of {several(whole.steps, 'step')}"
    return f"{percent(recent.clipped)} of the last {recent.steps}, {percent(whole.clipped)} of {whole.steps:,}"


def _range(norms: list[float]) -> str:
    finite = [norm for norm in norms if math.isfinite(norm)]
    if not finite:
        return f"none of the last {several(len(norms), 'norm')} is finite"
    return f"{amount(min(finite))} to {amount(max(finite))} in the last {several(len(norms), 'step')}"


def _event(record: ClipRecord) -> str:
    status = record.status.replace("_", " ") if record.skipped else f"norm {amount(record.total_norm)}"
    counts = [
        f"{shortened(name, NAME)} ({nans:,} NaN, {infinities:,} infinite)"
        for name, (nans, infinities) in list((record.nonfinite or {}).items())[:3]
    ]
    more = len(record.nonfinite or {}) - len(counts)
    return _joined(f"step {record.step:,} {status}", *counts, f"{more} more" if more > 0 else "")


def _worst(record: ClipRecord | None) -> str:
    if record is None:
        return "not recorded; GradClipper(norms_every=...) does"
    shares = [
        f"{shortened(name, NAME)} {'not finite' if math.isnan(share) else percent(share)}"
        for name, share in record.worst
    ]
    return f"{_joined(*shares)} of the squared norm at step {record.step:,}"


def _pace(steps_per_second: float) -> str:
    if steps_per_second < SLOW:
        return f"{digits(1.0 / steps_per_second)} s/step"
    return "1 step/s" if digits(steps_per_second) == "1" else f"{digits(steps_per_second)} steps/s"


def _age(session: Session) -> str:
    if session.found.absent:
        return ""
    seconds = max(0.0, time.time() - session.found.modified)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"last line {seconds / size:.0f} {unit} ago"
    return f"last line {seconds:.0f} s ago"


def _sayable(text: str, encoding: str) -> str:
    """Return a text as a terminal can show it, and obeys none of it."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown.encode(encoding, "replace").decode(encoding)
