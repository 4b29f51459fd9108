"""The error of all readers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike, fspath
from typing import Any, final

LONGEST = 60
"""Characters of something from a file that a message shows."""


class ReadError(ValueError):
    """A recorded run that cannot be read. The message is one line: the file, the place in it, and what to do.

    Attributes:
        path: The file or folder, as text.
        line: The number of the line, or of another part of the file, from 1; None if the error is about the whole file.
    """

    def __init__(self, path: str | PathLike[str], problem: str, *, line: int | None = None, part: str = "line") -> None:
        """Take what is wrong and what to do about it; a part is what the numbers count, such as `"line"`."""
        self.path = fspath(path)
        self.line = line
        place = self.path if line is None else f"{self.path}, {part} {line}"
        super().__init__(printable(f"{place}: {problem}"))


@final
class NoNormError(ReadError):
    """One in which there is no norm, or none of the run that is asked for: not yet, if somebody still writes it."""


@contextmanager
def said(path: str | PathLike[str]) -> Iterator[None]:
    """Say as a `ReadError` what the operating system has against a file or folder."""
    try:
        yield
    except FileNotFoundError as error:
        raise ReadError(path, "there is no such file. Check the path.") from error
    except PermissionError as error:
        raise ReadError(path, "it may not be read. Ask for the permission, or copy it.") from error
    except OSError as error:
        raise ReadError(path, f"it cannot be read ({error.strerror}). Check the path and the disk.") from error


def shown(value: Any) -> str:
    """Return what stands in a file, quoted and short."""
    text = repr(value[: LONGEST + 1] if isinstance(value, str) else value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def listed(names: Sequence[Any], most: int = 20) -> str:
    """Return names as a short list."""
    rest = len(names) - most
    return ", ".join(map(shown, names[:most])) + (f" and {rest} more" if rest > 0 else "")


def printable(message: str) -> str:
    """Return a message on one line: the name of a file, or of a column in it, may hold anything."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))


def plain(text: str) -> str:
    """Return text that can be written anywhere: JSON may name halves of characters."""
    return text.encode("utf-8", "replace").decode()
