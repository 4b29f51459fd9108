"""What kind of file it is: told by what it holds, and by its name where that leaves it open."""

import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

from gradclip.analysis.reading.error import ReadError, listed
from gradclip.analysis.reading.names import norms_among
from gradclip.analysis.reading.pieces import PROLOGUE
from gradclip.analysis.reading.printed import END, MESSAGES, entry_of, is_number
from gradclip.analysis.reading.table import CELLS

Kind: TypeAlias = Literal["events", "jsonl", "trainer_state", "table", "printed"]

EVENTS, TRAINER_STATE = "tfevents", "trainer_state.json"
"""What the names of event files hold, and how the log of a Trainer is called."""

DEPTH = 3
"""How many folders below one that was named are looked into."""

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
"""What a Trainer calls the folders of one run: the last holds all steps."""

HEAD = 4096
"""Bytes that tell a binary file from text."""

LIST = re.compile(r"\[\s*(?:[\]{]|\[\s*[\d.e+]+\s*,|$)")
"""How a list of objects, or of points, begins; a line of text may begin with a bracket too."""

COLUMNS = re.compile(r'\{(?:\s*"[^"\n]*"\s*:\s*\[[^\]\n]*(?:\]\s*,?|$))+\s*(?:\}|"[^"\n]*"?[\s:]*)?')
"""An object of lists, on one line alone, of which there may be more than is seen."""

OBJECT = re.compile(r"\{\s*[\"}]")
"""How an object of JSON begins; what Python prints has other quotes."""

FOREIGN: dict[bytes, str] = {
    b"version https://git-lfs": "it is a pointer of Git LFS, not the file. Run `git lfs pull`, and name it again.",
    b":W&B": "it is a run as Weights & Biases keeps it. Upload it by `wandb sync`, and export its history as CSV.",
    b"SQLite": "it is a database, as MLflow keeps runs in. Export the metrics of the run as CSV.",
    b"PAR1": "it is a Parquet file. Save it as CSV.",
    **dict.fromkeys(
        (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd"), "the file is compressed. Unpack it first."
    ),
    **dict.fromkeys((b"\xff\xfe", b"\xfe\xff"), "the file is UTF-16. Save it as UTF-8."),
}
"""How files begin that are read by nothing here, and what to do with each."""


def files_of(path: Path, column: str | None = None) -> tuple[Kind, list[Path], list[str]]:
    """Return the kind of a run, its files, and what is to be remarked on where these were looked for.

    Args:
        path: A file, or a folder with the event files of one run or a `trainer_state.json` in it.
        column: The name of the norm, where it is given.

    Raises:
        ReadError: If it is nothing that can be read.
        OSError: If it cannot be looked at.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        return _in_folder(path)
    if not stat.S_ISREG(mode):
        raise ReadError(path, "it is neither a file nor a folder. Write the run to a file and name that.")
    with path.open("rb") as file:
        return _kind(path, file.read(PROLOGUE), column), [path], []


def _in_folder(folder: Path) -> tuple[Kind, list[Path], list[str]]:
    """Return the run in a folder itself, or else the one below it."""
    with os.scandir(folder):  # which says where it may not be read, as a walk does not
        pass
    files, unread = list[Path](), dict[Path, None]()
    for place, folders, names in os.walk(folder, followlinks=True):
        path = Path(place)
        unread.pop(path, None)
        files += [path / name for name in names if _named(name) and (path / name).is_file()]
        if len(path.relative_to(folder).parts) == DEPTH or (path == folder and files):
            folders.clear()
        folders.sort()
        unread |= dict.fromkeys(path / name for name in folders)
    nearest_first = sorted(unread, key=lambda path: len(path.parts))
    left_out = listed([os.fspath(path.relative_to(folder)) for path in nearest_first], 5)
    if not files:
        but = f", and these below it cannot be read: {left_out}" if unread else ""
        raise ReadError(folder, f"there is no event file and no trainer_state.json in the folder{but}. Name a file.")
    kind = min(filter(None, (_named(file.name) for file in files)))  # events first
    files = sorted(file for file in files if _named(file.name) == kind)
    runs = sorted({file.parent for file in files}, key=lambda run: (len(run.parts), run))
    checkpoints = [(int(match[1]), run) for run in runs if (match := CHECKPOINT.fullmatch(run.name))]
    if len(checkpoints) == len(runs) and len({run.parent for run in runs}) == 1:
        runs = [max(checkpoints)[1]]
    if len(runs) > 1:
        names = listed([os.fspath(run.relative_to(folder)) for run in runs], 5)
        raise ReadError(folder, f"there are {len(runs)} runs in the folder: {names}. Name one of them.")
    remarks = [f"Folders below could not be read, and are left out: {left_out}."] if unread else []
    return kind, [file for file in files if file.parent == runs[0]], remarks


def _named(name: str) -> Kind | None:
    """Return the kind of a file whose name tells it."""
    return "events" if EVENTS in name else "trainer_state" if name == TRAINER_STATE else None


def _kind(path: Path, data: bytes, column: str | None) -> Kind:
    head = data[:HEAD]
    for beginning, problem in FOREIGN.items():
        if head.startswith(beginning):
            raise ReadError(path, problem)
    if EVENTS in path.name or b"brain.Event:" in head:
        return "events"
    text = data.decode("utf-8-sig", errors="replace").lstrip()
    if not text and len(head) < HEAD:
        raise ReadError(path, "the file is empty. Wait for the first record, or name another file.")
    first, end, _ = text.partition("\n")
    if path.name == TRAINER_STATE or '"log_history"' in first or LIST.match(text) or COLUMNS.fullmatch(text.rstrip()):
        return "trainer_state"
    if b"\0" in head and not text.startswith("{"):
        problem = "the file is binary. JSON Lines, tables (CSV), trainer_state.json and event files can be read."
        raise ReadError(path, problem)
    if _is_printed(text, column):
        return "printed"
    if not text.startswith("{"):
        return "table"
    whole = first.rstrip().endswith("}") or not end  # a first line that is one object, or longer than the head
    return "jsonl" if whole or path.suffix in (".jsonl", ".ndjson") else "trainer_state"


def _is_printed(text: str, column: str | None) -> bool:
    """Say whether text is that of a trainer: it names a norm, with but settings as objects of JSON above that.

    A line of names, and below it one of numbers, are those of a table, whatever its cells say further down, or one line
    of settings above. Where there is no norm, as not yet, whatever names a number elsewhere is text.
    """

    def are_norms(names: Iterable[str]) -> bool:
        names = list(names)
        return bool(norms_among(names, None) or (column and norms_among(names, column)))

    def has_norm(entry: Mapping[str, Any]) -> bool:
        return are_norms(name for name, value in entry.items() if is_number(value))

    norms, numbers, is_table, over_lines = 0, False, False, False
    with suppress(ValueError, RecursionError):
        while OBJECT.match(text):
            found, end = json.JSONDecoder().raw_decode(text)
            if has_norm(found) or "log_history" in found:
                return over_lines and "log_history" not in found
            if any(isinstance(found.get(name), str) and has_norm(entry_of(found[name])) for name in MESSAGES):
                return True
            over_lines |= "\n" in text[:end]
            text = text[end:].lstrip()
        for line, below in pairwise([*END.split(text), ""]):
            entry, cells, under = entry_of(line), CELLS.split(line), CELLS.split(below)
            if has_norm(entry):
                norms += 1
                if norms > 1 and not line.startswith("#"):  # comments may name any number of them
                    return True
            elif any(map(is_number, under)):
                if are_norms(cells):
                    return False
                is_table |= not entry and len(cells) == len(under) > 1
            numbers |= bool(entry)
    goes_on = over_lines and text != ""  # as no document of JSON does
    return norms > 0 or goes_on or (numbers and not is_table)
