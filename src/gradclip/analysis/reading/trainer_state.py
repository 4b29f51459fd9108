"""The `trainer_state.json` that the Trainer of transformers leaves in its checkpoints.

    {"log_history": [{"step": 10, "grad_norm": 1.25, "learning_rate": 0.001, "loss": 2.5, "epoch": 0.1}, ...], ...}

Entries without a norm, such as those of an evaluation, are left out. Other documents of JSON are read as well: a list
of such entries alone, a history with a list for each name, and the points of a tag, as TensorBoard's page offers them:

    {"loss": [2.5, 2.25, ...], "grad_norm": [1.25, 1.5, ...]}
    [[1700000000.0, 1, 1.25], [1700000001.0, 2, 1.5], ...]
"""

import json
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import polars as pl

from gradclip.analysis.reading.error import ReadError
from gradclip.analysis.reading.names import ONE_TAG
from gradclip.analysis.reading.rows import found_in
from gradclip.analysis.reading.source import Source

LARGEST = 2**29
"""Bytes of a file that is read as a whole: some three million entries."""

ASKED = (
    "The file does not say whether the run was clipped. A Trainer clips at 1.0 where its arguments say nothing else: "
    "if that is so, say it by `--max-norm 1.0` on the command line, by `series.clipped_at(1.0)` in Python."
)


def read_trainer_state(source: Source) -> Iterator[pl.DataFrame]:
    """Return the log of a trainer.

    Raises:
        ReadError: If it holds none.
    """
    asked: list[str] = []
    match _parsed(source):
        case [[_, _, _], *_] as points:
            history = [dict(zip(ONE_TAG, point, strict=True)) if _is_point(point) else point for point in points]
        case list(history) | {"log_history": list(history)}:
            asked = [ASKED]
        case dict(found) if columns := {name: column for name, column in found.items() if isinstance(column, list)}:
            history = [dict(zip(columns, row, strict=True)) for row in zip_longest(*columns.values())]
        case _:
            way_out = "Name a trainer_state.json, or write one record a line (JSON Lines)."
            source.refuse(f"there is no list log_history in it. {way_out}")
    for place, entry in enumerate(history, 1):
        if not isinstance(entry, dict):
            source.refuse("the entry is no object. Delete it.", place)
    source.choose(history or [{}])  # a history without entries has no names
    if "thresholds" not in source.fields:
        source.remarks += asked
    yield from found_in(enumerate(history, 1), source)


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == len(ONE_TAG)


def _parsed(source: Source) -> Any:
    (path,) = source.files
    if path.stat().st_size > LARGEST:
        source.refuse("the file is larger than 512 MiB. Write one record a line (JSON Lines) to read it.")
    line = None
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        line, problem = error.lineno, f"the file is not JSON from here on ({error.msg}). Is it whole? Copy it again."
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        problem = "the line is not UTF-8. Correct it."
    except (ValueError, RecursionError):
        problem = "the file is nested too deeply, or holds a number of thousands of digits."
    raise ReadError(source.path, problem, line=line)
