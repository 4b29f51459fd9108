"""The `trainer_state.json` that the Trainer of transformers leaves in its checkpoints.

    {"log_history": [{"step": 10, "grad_norm": 1.25, "learning_rate": 0.001, "loss": 2.5, "epoch": 0.1}, ...], ...}

Entries without a norm, such as those of an evaluation, are left out. A list of such entries alone is read as well.
"""

import json
from pathlib import Path
from typing import Any

from gradclip.analysis.reading.error import ReadError
from gradclip.analysis.reading.gather import Gathering
from gradclip.analysis.reading.names import choose
from gradclip.analysis.reading.rows import rows_of
from gradclip.analysis.series import Series

LARGEST = 2**29
"""Bytes of a file that is read as a whole: some three million entries."""

PART = "log_history entry"

ASKED = (
    "The file does not say whether the run was clipped. A Trainer clips at 1.0 where its arguments say nothing else: "
    "if that is so, say it by `--max-norm 1.0` on the command line, by `series.clipped_at(1.0)` in Python."
)


def read_trainer_state(path: Path, column: str | None) -> Series:
    """Read the log of a trainer.

    Args:
        path: The file.
        column: The field of the norm; None for a usual name.

    Returns:
        The run.

    Raises:
        ReadError: If it holds none.
    """
    found = _parsed(path)
    history: Any = found.get("log_history") if isinstance(found, dict) else found
    if not isinstance(history, list):
        problem = (
            "there is no list log_history in it. Name a trainer_state.json, or write one record a line (JSON Lines)."
        )
        raise ReadError(path, problem)
    for place, entry in enumerate(history, 1):
        if not isinstance(entry, dict):
            raise ReadError(path, "the entry is no object. Delete it.", line=place, part=PART)
    fields = choose(list(dict.fromkeys(name for entry in history for name in entry)), column, path, "field")
    gathering = Gathering(path, PART)
    gathering.add(rows_of(enumerate(history, 1), fields, path, PART))
    if "thresholds" not in fields:
        gathering.remarks.append(ASKED)
    return gathering.series()


def _parsed(path: Path) -> Any:
    if path.stat().st_size > LARGEST:
        raise ReadError(path, "the file is larger than 512 MiB. Write one record a line (JSON Lines) to read it.")
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        problem = f"the file is not JSON from here on ({error.msg}). Is it whole? Copy it again."
        raise ReadError(path, problem, line=error.lineno) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ReadError(path, "the line is not UTF-8. Correct it.", line=line) from error
    except (ValueError, RecursionError) as error:
        raise ReadError(path, "the file is nested too deeply, or holds a number of thousands of digits.") from error
