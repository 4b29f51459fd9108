r"""Text as trainers print it: one step a line, with its numbers in one of four ways, whatever stands around them.

    {'loss': '27.62', 'grad_norm': '11.46', 'learning_rate': '1e-05', 'epoch': '0.1'}
    2024-03-08 12:31:36 | INFO | train_inner | {"epoch": 1, "num_updates": "10", "gnorm": "1.25"}
     iteration       10/  250000 | learning rate: 2.999E-04 | lm loss: 2.1E+00 | grad norm: 1.250 |
    2024-03-08 12:31:36 - mmcv - INFO - Epoch [1][50/3757]  lr: 1.0e-02, loss: 2.5, grad_norm: 1.25

- A dict of Python or JSON counts as it is. Elsewhere a number belongs to the words before its colon or equals sign;
  after a usual name a blank is enough.
- A carriage return ends a line: progress bars write one.
- Lines without a norm are left out, without a word: most are about something else.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from gradclip.analysis.reading.pieces import pieces
from gradclip.analysis.reading.rows import Chunk, chunks_of
from gradclip.analysis.reading.source import Source
from gradclip.analysis.reading.text import END, entry_of

FIRST = 2
"""Pieces in which the norm is looked for: a last line without an end is one of its own."""


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
        for line, data in piece.lines():
            for part in END.split(data.decode(errors="replace").rstrip()):
                if entry := entry_of(part):
                    yield line, entry
