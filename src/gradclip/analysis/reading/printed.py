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
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, tee
from pathlib import Path
from typing import Any

from gradclip.analysis.reading.error import ReadError
from gradclip.analysis.reading.names import choose
from gradclip.analysis.reading.pieces import Piece, pieces
from gradclip.analysis.reading.rows import Chunk, chunk_of
from gradclip.analysis.reading.source import Source

AT_ONCE = 10_000
"""Lines with numbers that are read at once, and among whose names that of the norm is looked for."""

END = re.compile(r"[\r\n]+")

DICT = re.compile(r"\{.*\}")

NUMBER = r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?|nan|inf(?:inity)?)"

PAIR = re.compile(rf"(?<!\w)([a-z_][\w/.@\- ]{{0,60}}?)\s*[:=]\s*({NUMBER})(?=[\s,;|)\]%]|$)", re.IGNORECASE)
"""Words, and a number that they name. What they are looked for in may be any text, of any length."""

COUNTER = re.compile(
    r"\b(step|iter|iteration|update|epoch)s?\b[\s:=]*\[?\s*(\d+)\b(?:\]\s*\[\s*(\d+)\b)?", re.IGNORECASE
)
"""A counter, and after an epoch in brackets, that of the iteration within."""

BARE = re.compile(r"(?<=[:\s])(-?(?:nan|inf))(?=[,}\s])")
"""How Python prints what is not finite, which it does not read again."""

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def read_printed(files: Sequence[Path], source: Source) -> Iterator[Chunk]:
    """Return what a trainer printed, some lines at a time.

    Raises:
        ReadError: If no number is named as the norm.
    """
    with files[0].open("rb") as file:
        entries, ahead = tee(_entries(pieces(file, source.path)))
        source.choose(source.sample((entry for _, entry in ahead), AT_ONCE), "number")
        del ahead
        norm = source.fields["norms"]
        told = (found for found in entries if norm in found[1])
        batch = list(islice(told, AT_ONCE))
        source.choose(source.sample((entry for _, entry in batch), AT_ONCE + 1), "number")  # what is told beside it
        step = source.fields.get("steps", norm)
        while batch:
            kept = [found for found in batch if step in found[1]]
            yield chunk_of([line for line, _ in kept], [entry for _, entry in kept], source)
            batch = list(islice(told, AT_ONCE))


def is_printed(head: str) -> bool:
    """Say whether text begins like that of a trainer, with a norm that has a name beside it."""
    try:
        choose(list({name: None for line in END.split(head) for name in entry_of(line)}), None, "")
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


def _entries(some: Iterable[Piece]) -> Iterator[tuple[int, dict[str, Any]]]:
    for piece in some:
        for number, data in piece.lines():
            for part in END.split(data.decode(errors="replace")):
                if entry := entry_of(part):
                    yield number, entry
