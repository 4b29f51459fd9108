r"""Text as trainers print it: one step a line, with its numbers in one of four ways, whatever stands around them.

    {'loss': '27.62', 'grad_norm': '11.46', 'learning_rate': '1e-05', 'epoch': '0.1'}
    2024-03-08 12:31:36 | INFO | train_inner | {"epoch": 1, "num_updates": "10", "gnorm": "1.25"}
     iteration       10/  250000 | learning rate: 2.999E-04 | lm loss: 2.1E+00 | grad norm: 1.250 |
    2024-03-08 12:31:36 - mmcv - INFO - Epoch [1][50/3757]  lr: 1.0e-02, loss: 2.5, grad_norm: 1.25

- A dict of Python or JSON counts as it is, and of an object in Docker's log the line in it. Elsewhere a number belongs
  to the words before its colon or equals sign; after a usual name a blank is enough.
- A carriage return ends a line: progress bars write one.
- Lines without a norm are left out, without a word: most are about something else.
"""

import ast
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from gradclip.analysis.reading.names import FIELDS
from gradclip.analysis.reading.pieces import pieces
from gradclip.analysis.reading.rows import Chunk, chunks_of
from gradclip.analysis.reading.source import Source

FIRST = 2
"""Pieces in which the norm is looked for: a last line without an end is one of its own."""

END = re.compile(r"[\r\n]+")
"""What ends a line: progress bars write a carriage return."""

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

LOGGED = '{"log":"'
"""How a line of Docker's log begins, which goes on like `step 1 grad_norm 2.5\\n","stream":"stdout","time":...}`."""

THOUSANDS = r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?"

NUMBER = rf"(?:[-+]?(?:{THOUSANDS}|(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf(?:inity)?)|none|null)"

USUAL = tuple(name for role in ("norms", "steps", "losses", "lrs") for name in FIELDS[role].names)
"""How words end that a number may follow without a sign."""

PAIR = re.compile(rf"(?<!\w)([a-z_][\w/.@\- ]{{0,60}}?)\s*([:=\s])\s*({NUMBER})(?=[\s;|)\]}}%]|,(?!\d)|[.:](?:\s|$)|$)")
"""Words, and a number that they name. What they are looked for in may be any text, of any length, in lower case."""

OTHERS = re.compile(r" steps$|\b(?:clipped|max|param(?:eter)?s?|weights?|updates?|activations?)\b.* norm$")
"""Names whose last word is not for them: of so many steps in all, and of other norms than that of the gradients."""

COUNTER = re.compile(
    r"(?<!total )(?<!max )(?<!warmup )\b(step|iter|iteration|update|epoch)s?\b(?:\(\w+\))?[\s:=]*\[?"
    r"\s*(\d+)\b(?![.,]\d)(?:\]\s*\[\s*(\d+)\b)?"
)
"""A counter, and after an epoch in brackets, that of the iteration within."""

BARE = re.compile(r"(?<=[:\s])(-?(?:nan|inf))(?=[,}\s])")
"""How Python prints what is not finite, which it does not read again."""

WRAPPED = re.compile(
    rf"\b(?:(?:np|numpy|torch)\.)?(?:tensor|array|(?:float|int)\d+)\(\[?({NUMBER})[^()]*\)", re.IGNORECASE
)
"""A number as torch and NumPy print it."""


def read_printed(source: Source) -> Iterator[Chunk]:
    """Return what a trainer printed, some lines at a time.

    Raises:
        ReadError: If no number is named as the norm.
    """
    source.choose(entry for _, entry in _entries(source, FIRST))
    norm = source.fields["norms"]
    source.choose(entry for _, entry in _entries(source, FIRST) if norm in entry)  # what is told beside it
    told = {norm, source.fields.get("steps", norm)}
    yield from chunks_of((found for found in _entries(source) if told <= found[1].keys()), source)


def _entries(source: Source, most: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Return the numbers of lines by their names, where there are any, and where these lines are."""
    for piece in islice(pieces(source), most):
        for line, data in enumerate(piece.lines, piece.line):
            for part in END.split(data.decode(errors="replace").rstrip()):
                if entry := entry_of(part):
                    yield line, entry


def entry_of(line: str) -> dict[str, Any]:
    """Return the numbers of a line by their names; none where it is about something else.

    Example:
        >>> from gradclip.analysis.reading.printed import entry_of
        >>> entry_of("INFO:root:step=10 loss 2.5 | grad norm: 1,234.5 | 2.3s/it")
        {'step': '10', 'loss': '2.5', 'grad norm': '1234.5', 'norm': '1234.5'}
    """
    line = ANSI.sub("", line).strip()
    line = WRAPPED.sub(r"\1", line) if "(" in line else line
    if "{" in line and (entry := _dict_of(line[line.find("{") : line.rfind("}") + 1])):
        return entry_of(str(entry["log"])) if line.startswith(LOGGED) else entry
    entry: dict[str, Any] = {}
    for word, count, within in COUNTER.findall(line.lower()):
        entry.setdefault(word, count)
        if within:
            entry.setdefault("iter", within)
    pairs = [
        (name.rpartition(" - ")[2], number.replace(",", ""))
        for name, sign, number in PAIR.findall(line.lower())
        if not sign.isspace() or name.replace(" ", "_").replace("-", "_").endswith(USUAL)
    ]
    for name, value in pairs + [(name.rpartition(" ")[2], value) for name, value in pairs if not OTHERS.search(name)]:
        entry.setdefault(name, value)
    return entry


def is_number(value: Any) -> bool:
    """Say whether a value of JSON, or a cell of a table, is a number or stands for one."""
    return re.fullmatch(NUMBER, str(value).strip(), re.IGNORECASE) is not None


def _dict_of(text: str) -> dict[str, Any]:
    for parse, written in ((json.loads, text), (ast.literal_eval, BARE.sub(r"'\1'", text))):
        with suppress(AttributeError, ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return {str(name): value for name, value in parse(written).items()}
    return {}
