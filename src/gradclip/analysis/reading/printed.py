r"""Text as trainers print it: one step a line, with its numbers in one of four ways, whatever stands around them.

    {'loss': '27.62', 'grad_norm': '11.46', 'learning_rate': '1e-05', 'epoch': '0.1'}
    2024-03-08 12:31:36 | INFO | train_inner | {"epoch": 1, "num_updates": "10", "gnorm": "1.25"}
     iteration       10/  250000 | learning rate: 2.999E-04 | lm loss: 2.1E+00 | grad norm: 1.250 |
    2024-03-08 12:31:36 - mmcv - INFO - Epoch [1][50/3757]  lr: 1.0e-02, loss: 2.5, grad_norm: 1.25

- A dict of Python or JSON counts as it is. Elsewhere a number belongs to the words before its colon or equals sign; a
  step may stand without one.
- A carriage return ends a line: progress bars write one.
- Lines without a norm are left out, without a word: most are about something else.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from gradclip.analysis.reading.error import ReadError
from gradclip.analysis.reading.gather import Gathering
from gradclip.analysis.reading.names import choose
from gradclip.analysis.reading.pieces import Piece, pieces
from gradclip.analysis.reading.rows import rows_of
from gradclip.analysis.series import Series

AT_ONCE = 10_000
"""Lines that are read at once."""

END = re.compile(r"[\r\n]+")

DICT = re.compile(r"\{.*\}")

NUMBER = r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|nan|inf(?:inity)?)"

PAIR = re.compile(rf"([a-z_][\w/.@\- ]*?)\s*[:=]\s*({NUMBER})(?=[\s,;|)\]%]|$)", re.IGNORECASE)
"""Words, and a number that they name."""

COUNTER = re.compile(
    r"\b(step|iter|iteration|update|epoch)s?\b[\s:=]*\[?\s*(\d+)\b(?:\]\s*\[\s*(\d+)\b)?", re.IGNORECASE
)
"""A counter, and after an epoch in brackets, that of the iteration within."""

BARE = re.compile(r"(?<=[:\s])(-?(?:nan|inf))(?=[,}\s])")
"""How Python prints what is not finite, which it does not read again."""

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def read_printed(path: Path, column: str | None) -> Series:
    """Read what a trainer printed.

    Args:
        path: The file.
        column: The name of the norm; None for a usual one.

    Returns:
        The run.

    Raises:
        ReadError: If it holds none.
    """
    with path.open("rb") as file:
        names = _names(entry for _, entry in _entries(pieces(file, path)))
    fields = choose(names, column, path, "number")
    gathering = Gathering(path)
    with path.open("rb") as file:
        found = ((line, entry) for line, entry in _entries(pieces(file, path)) if fields["norms"] in entry)
        while batch := list(islice(found, AT_ONCE)):
            if "steps" in fields:
                batch = [(line, entry) for line, entry in batch if fields["steps"] in entry]
            gathering.add(rows_of(batch, fields, path))
    return gathering.series()


def is_printed(head: str) -> bool:
    """Say whether text begins like that of a trainer, with a norm that has a name beside it."""
    try:
        choose(_names(map(entry_of, END.split(head))), None, "")
    except ReadError:
        return False
    return True


def entry_of(line: str) -> dict[str, Any]:
    """Return the numbers of a line by their names; none where it is about something else."""
    line = ANSI.sub("", line).strip()
    if (found := DICT.search(line)) and (entry := _dict_of(found[0])):
        return entry
    entry: dict[str, Any] = {}
    for counter in COUNTER.finditer(line):
        word, count, within = counter.groups()
        entry.setdefault(word.lower(), count)
        if within is not None:
            entry.setdefault("iter", within)
    pairs = [(pair[1].lower(), pair[2]) for pair in PAIR.finditer(line)]
    for name, value in pairs + [(name.rpartition(" ")[2], value) for name, value in pairs]:
        entry.setdefault(name, value)
    return entry


def _dict_of(text: str) -> dict[str, Any]:
    for parse, written in ((json.loads, text), (ast.literal_eval, BARE.sub(r"'\1'", text))):
        try:
            found = parse(written)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(found, dict):
            return {str(name): value for name, value in found.items()}
    return {}


def _entries(some: Iterator[Piece]) -> Iterator[tuple[int, dict[str, Any]]]:
    for piece in some:
        for number, data in piece.lines():
            for part in END.split(data.decode(errors="replace")):
                if entry := entry_of(part):
                    yield number, entry


def _names(entries: Iterable[dict[str, Any]]) -> list[str]:
    """Return the names of the numbers in all lines, in the order in which they come."""
    return list(dict.fromkeys(name for entry in entries for name in entry))
