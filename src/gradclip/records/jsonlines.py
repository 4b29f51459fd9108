"""Records as lines of a file."""

import errno
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any, Literal, final

import torch.distributed as dist

from gradclip.records.line import line_of
from gradclip.records.record import ClipRecord

START = b'{"step":'
"""How every line begins."""

BLOCK = 1 << 16
"""Bytes that are read at a time, from the end of a file on, to find its last line."""

LONGEST = 1 << 26
"""Bytes after which a line is none of ours."""

WRITING_S = 0.05
"""How long a line may take another process that is in the middle of writing it."""


@final
class JSONLines:
    """A sink that appends each record to a file, as one line of JSON.

    Each line is written with one call of the operating system, and nothing is buffered. If the process is killed, all
    lines before the last are complete, and at most the last one is cut off. A file that ends in such a fragment is
    repaired when it is opened the next time, with a warning. Existing lines are kept: a resumed run appends to the same
    file. If the file is deleted while it is in use, with or without its folder, it is created again.

    The JSON is strict: NaN and infinite numbers are written as null.

    Args:
        path: The file; it and its folders are created if they are missing.
        ranks: Which ranks write: 0, or `"all"`, each to its own file, so that `run.jsonl` becomes `run.rank0.jsonl`,
            `run.rank1.jsonl` and so on. The rank comes from `torch.distributed`, or else from the environment variable
            `RANK`. Other ranks take records and do nothing.

    Attributes:
        path: The file, with the number of the rank if all ranks write.

    Raises:
        TypeError: If `path` is not a path.
        ValueError: If `ranks` is something else.
        OSError: If the file cannot be written (`IsADirectoryError`, `PermissionError` and so on), or is a pipe or a
            device.

    Warns:
        UserWarning: If the file ends in the middle of a line.

    Example:
        >>> import tempfile, torch, gradclip
        >>> p = torch.nn.Parameter(torch.zeros(2))
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sink = gradclip.records.JSONLines(folder + "/run.jsonl")
        ...     result = gradclip.GradClipper([p], sinks=[sink]).clip()
        ...     sink.close()
        ...     print(sink.path.read_text().strip())
        {"step": 1, "time": ..., "status": "clipped", "total_norm": 5.0, ...}

    Note:
        *Distributed:* norms and thresholds are the same on all ranks, so the file of rank 0 is complete, except for the
        counts of non-finite elements, which are only those of its own shards.
    """

    def __init__(self, path: str | os.PathLike[str], *, ranks: Literal[0, "all"] = 0) -> None:
        if ranks not in (0, "all"):
            msg = f"`JSONLines(ranks=...)` must be 0 or 'all', got {ranks!r}. Pass 'all' for a file of each rank."
            raise ValueError(msg)
        self._whole = Path(path).absolute()
        self._ranks: Literal[0, "all"] = ranks
        self._rank = rank() or 0
        self._settled_in: int | None = None  # which process: a forked one may be another rank
        self._file: int | None = None
        if self._writes:
            self._file = _open(self.path)

    @property
    def path(self) -> Path:
        """The file, with the number of the rank if all ranks write."""
        whole = self._whole
        return whole if self._ranks == 0 else whole.with_name(f"{whole.stem}.rank{self._rank}{whole.suffix}")

    @property
    def _writes(self) -> bool:
        return self._ranks == "all" or self._rank == 0

    def __call__(self, record: ClipRecord) -> None:
        """Write a record."""
        if self._settled_in != os.getpid():
            self._settle()
        if not self._writes:
            return
        if self._file is not None and os.fstat(self._file).st_nlink == 0:  # nobody could read what is written
            self.close()
        if self._file is None:
            self._file = _open(self.path)
        line = line_of(record)
        try:
            while line:  # once, unless the disk is full
                line = line[os.write(self._file, line) :]
        except OSError:
            self.close()  # so that a fragment is put right, should there be another record
            raise

    def close(self) -> None:
        """Close the file; another record opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _settle(self) -> None:
        """Look once more which rank this is: ranks are as a rule known by the first record."""
        self._settled_in = os.getpid()
        if (own := rank() or 0) != self._rank:
            self.close()
            self._rank = own

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of, in another process as a rule: it opens the file at its first record."""
        return {**vars(self), "_file": None, "_settled_in": None}

    def __repr__(self) -> str:
        return f"JSONLines({str(self._whole)!r}{'' if self._ranks == 0 else ', ranks=' + repr(self._ranks)})"


def rank() -> int | None:
    """Return which rank this process is, by `torch.distributed` or by the environment; None where neither says so."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    word = os.environ.get("RANK", "")
    return int(word) if word.isdecimal() else None


# Opening.


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not (path.is_file() or path.is_dir()):  # to open a pipe or a device may do something
            raise OSError(errno.EINVAL, "not a regular file")
        file = os.open(path, flags, 0o666)
    except OSError as error:
        is_folder = isinstance(error, IsADirectoryError)
        what = "Name a file in it." if is_folder else "Name a file in a folder where you may write."
        msg = f"`JSONLines(path=...)` must be a file that can be written, got {str(path)!r} ({error.strerror}). {what}"
        raise OSError(error.errno, msg) from error
    try:
        _put_right(file, path)
    except BaseException:  # such as a warning that is an error
        os.close(file)
        raise
    return file


def _put_right(file: int, path: Path) -> None:
    """Remove the beginning of a line of ours from the end of a file; end any other last line."""
    start, fragment = found = _last_line(file)
    if not fragment:
        return
    time.sleep(WRITING_S)
    if _last_line(file) != found:  # another process writes
        return
    if _is_whole(fragment) or not fragment.startswith(START[: len(fragment)]):
        os.write(file, b"\n")
        what = "A line break is added."
    else:
        os.ftruncate(file, start)
        what = f"The {len(fragment)} bytes of that line are removed: {fragment[:60].decode(errors='replace')!r}."
    warnings.warn(f"{path} ends in the middle of a line, as after a crash. {what}", stacklevel=4)


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _last_line(file: int) -> tuple[int, bytes]:
    """Return where the last line begins, and what there is of it; of an endless one, the end."""
    start = size = os.fstat(file).st_size
    blocks: list[bytes] = []
    while start > max(0, size - LONGEST) and not (blocks and b"\n" in blocks[-1]):
        end, start = start, max(0, start - BLOCK)
        os.lseek(file, start, os.SEEK_SET)
        blocks.append(os.read(file, end - start))
    line = b"".join(reversed(blocks)).rpartition(b"\n")[2]
    return size - len(line), line
