"""The `trainer_state.json` that the Trainer of transformers leaves in its checkpoints.

    {"log_history": [{"step": 10, "grad_norm": 1.25, "learning_rate": 0.001, "loss": 2.5, "epoch": 0.1}, ...], ...}

Entries without a norm, such as those of an evaluation, are left out. A list of such entries alone is read as well.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gradclip.analysis.reading.rows import Chunk, chunk_of
from gradclip.analysis.reading.source import Source

LARGEST = 2**29
"""Bytes of a file that is read as a whole: some three million entries."""

ASKED = (
    "The file does not say whether the run was clipped. A Trainer clips at 1.0 where its arguments say nothing else: "
    "if that is so, say it by `--max-norm 1.0` on the command line, by `series.clipped_at(1.0)` in Python."
)


def read_trainer_state(files: Sequence[Path], source: Source) -> Iterator[Chunk]:
    """Return the log of a trainer.

    Raises:
        ReadError: If it holds none.
    """
    found = _parsed(files[0], source)
    history: Any = found.get("log_history") if isinstance(found, dict) else found
    if not isinstance(history, list):
        source.refuse(
            "there is no list log_history in it. Name a trainer_state.json, or write one record a line (JSON Lines)."
        )
    source.part = "log_history entry"
    for place, entry in enumerate(history, 1):
        if not isinstance(entry, dict):
            source.refuse("the entry is no object. Delete it.", place)
    source.choose(source.sample(history, 1 + len(history)), "field")
    if "thresholds" not in source.fields:
        source.remarks.append(ASKED)
    yield chunk_of(range(1, len(history) + 1), history, source)


def _parsed(path: Path, source: Source) -> Any:
    if path.stat().st_size > LARGEST:
        source.refuse("the file is larger than 512 MiB. Write one record a line (JSON Lines) to read it.")
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        source.refuse(f"the file is not JSON from here on ({error.msg}). Is it whole? Copy it again.", error.lineno)
    except UnicodeDecodeError as error:
        source.refuse("the line is not UTF-8. Correct it.", error.object.count(b"\n", 0, error.start) + 1)
    except (ValueError, RecursionError):
        source.refuse("the file is nested too deeply, or holds a number of thousands of digits.")
