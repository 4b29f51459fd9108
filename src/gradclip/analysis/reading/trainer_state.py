"""The `trainer_state.json` that the Trainer of transformers leaves in its checkpoints.

    {"log_history": [{"step": 10, "grad_norm": 1.25, "learning_rate": 0.001, "loss": 2.5, "epoch": 0.1}, ...], ...}

Entries without a norm, such as those of an evaluation, are left out. A list of such entries alone is read as well.
"""

import json
from collections.abc import Iterator
from typing import Any

from gradclip.analysis.reading.error import ReadError
from gradclip.analysis.reading.rows import Chunk, chunks_of
from gradclip.analysis.reading.source import Source

LARGEST = 2**29
"""Bytes of a file that is read as a whole: some three million entries."""

ASKED = (
    "The file does not say whether the run was clipped. A Trainer clips at 1.0 where its arguments say nothing else: "
    "if that is so, say it by `--max-norm 1.0` on the command line, by `series.clipped_at(1.0)` in Python."
)


def read_trainer_state(source: Source) -> Iterator[Chunk]:
    """Return the log of a trainer.

    Raises:
        ReadError: If it holds none.
    """
    found = _parsed(source)
    history: Any = found.get("log_history") if isinstance(found, dict) else found
    if not isinstance(history, list):
        source.refuse(
            "there is no list log_history in it. Name a trainer_state.json, or write one record a line (JSON Lines)."
        )
    for place, entry in enumerate(history, 1):
        if not isinstance(entry, dict):
            source.refuse("the entry is no object. Delete it.", place)
    source.choose(history)
    if "thresholds" not in source.fields:
        source.remarks.append(ASKED)
    yield from chunks_of(enumerate(history, 1), source)


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
