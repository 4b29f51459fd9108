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

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, tee
from pathlib import Path
from typing import Any

from gradclip.analysis.reading.pieces import Piece, pieces
from gradclip.analysis.reading.rows import AT_ONCE, Chunk, chunks_of
from gradclip.analysis.reading.source import Source
from gradclip.analysis.reading.text import END, entry_of


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
        first = list(islice(told, AT_ONCE))
        source.choose(source.sample((entry for _, entry in first), AT_ONCE + 1), "number")  # what is told beside it
        step = source.fields.get("steps", norm)
        yield from chunks_of((found for found in chain(first, told) if step in found[1]), source)


def _entries(some: Iterable[Piece]) -> Iterator[tuple[int, dict[str, Any]]]:
    for piece in some:
        for number, data in piece.lines():
            for part in END.split(data.decode(errors="replace").rstrip()):
                if entry := entry_of(part):
                    yield number, entry
