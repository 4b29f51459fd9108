"""What kind of file it is: told by what it holds, and by its name where that leaves it open."""

import os
import re
import stat
from pathlib import Path
from typing import Literal, TypeAlias

from gradclip.analysis.reading.error import ReadError, listed
from gradclip.analysis.reading.printed import is_printed

Kind: TypeAlias = Literal["events", "jsonl", "trainer_state", "table", "printed"]

EVENTS = "tfevents"
"""What the names of event files hold."""

TRAINER_STATE = "trainer_state.json"

HEAD = 4096
"""Bytes that are looked at."""

PROLOGUE = 2**18
"""Bytes of text in which a trainer prints its first norm."""

DEPTH = 3
"""How many folders below one that was named are looked into."""

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
"""What a Trainer calls the folders of one run: the last holds all steps."""

LIST = re.compile(rb"\[\s*(?:[\]{]|$)")
"""How a list of objects begins; a line of text may begin with a bracket too."""

LFS = b"version https://git-lfs"

UTF16 = (b"\xff\xfe", b"\xfe\xff")
COMPRESSED = (b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd")


def files_of(path: Path) -> tuple[Kind, list[Path]]:
    """Return the kind of a run and its files.

    Args:
        path: A file, or a folder with the event files of one run or a `trainer_state.json` in it.

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
        return _kind(path, file.read(HEAD)), [path]


def _in_folder(folder: Path) -> tuple[Kind, list[Path]]:
    if events := _event_files(folder):
        return "events", events
    if (state := folder / TRAINER_STATE).is_file():
        return "trainer_state", [state]
    below = [
        here for depth in range(1, DEPTH + 1) for here in sorted(folder.glob("/".join("*" * depth))) if here.is_dir()
    ]
    runs = [here for here in below if _event_files(here)] or [
        here for here in below if (here / TRAINER_STATE).is_file()
    ]
    checkpoints = [(int(match[1]), run) for run in runs if (match := CHECKPOINT.fullmatch(run.name))]
    if len(checkpoints) == len(runs) and len({run.parent for run in runs}) == 1:
        runs = [max(checkpoints)[1]]
    if len(runs) == 1:
        return _in_folder(runs[0])
    if runs:
        names = listed([os.fspath(run.relative_to(folder)) for run in runs], 5)
        raise ReadError(folder, f"there are {len(runs)} runs in the folder: {names}. Name one of them.")
    raise ReadError(folder, "there is no event file and no trainer_state.json in the folder. Name a file.")


def _event_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if EVENTS in file.name and file.is_file())


def _kind(path: Path, head: bytes) -> Kind:
    if head.startswith(LFS):
        raise ReadError(path, "it is a pointer of Git LFS, not the file. Run `git lfs pull`, and name it again.")
    if EVENTS in path.name or b"brain.Event:" in head:
        return "events"
    if head.startswith(COMPRESSED):
        raise ReadError(path, "the file is compressed. Unpack it first.")
    if head.startswith(UTF16):
        raise ReadError(path, "the file is UTF-16. Save it as UTF-8.", line=1)
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text and len(head) < HEAD:
        raise ReadError(path, "the file is empty. Wait for the first record, or name another file.")
    first = text.partition(b"\n")[0].rstrip()
    if path.name == TRAINER_STATE or b'"log_history"' in first or LIST.match(text):
        return "trainer_state"
    if not text.startswith(b"{"):
        if b"\0" in head:
            problem = "the file is binary. JSON Lines, tables (CSV), trainer_state.json and event files can be read."
            raise ReadError(path, problem)
        with path.open("rb") as file:
            return "printed" if is_printed(file.read(PROLOGUE).decode(errors="replace")) else "table"
    if not first.startswith((b'{"', b"{}", b"{ ")) and len(first) > 1:
        return "printed"
    whole = first.endswith(b"}") or len(first) == len(text)  # a first line that is one object, or longer than the head
    return "jsonl" if whole or path.suffix in (".jsonl", ".ndjson") else "trainer_state"
