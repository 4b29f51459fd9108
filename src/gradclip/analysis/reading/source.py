"""A recorded run that is being read: what is asked of it, and what is noticed on the way."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, final

from gradclip.analysis.reading.details import Thinned, empty_details
from gradclip.analysis.reading.error import NoNormError, ReadError, listed
from gradclip.analysis.reading.names import FIELDS, Fields, choose, norms_among

ENOUGH = 1000
"""Entries whose names are the columns, if one of them is that of the norm."""


@final
@dataclass
class Source:
    """A run that is being read.

    Attributes:
        path: The file or folder, as it was named.
        column: The column of the norm, where it is given.
        run: The run that is meant, where there are several.
        files: The files to read.
        part: What the numbers of rows count, for messages.
        called: What a column is called there.
        size: How many bytes to read of a file of lines, which are whole ones; None for all.
        fields: The names of columns in the file by what is read from them, once they are chosen.
        details: What single rows say beyond numbers, by what it is.
        torn: Lines that end within their record.
        remarks: What else is to be remarked on.
    """

    path: Path
    column: str | None
    run: str | None
    files: list[Path]
    part: str
    called: str
    size: int | None = None
    fields: Fields = field(default_factory=dict)
    details: dict[str, Thinned[Any]] = field(default_factory=empty_details)
    torn: set[int] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)

    def choose(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Choose the columns to read by their names in the first entries: what is no name is not read as one.

        Raises:
            ReadError: If there are no entries, or no name, or several, may be that of the norm.
        """
        samples: dict[str, Any] = {}
        count = 0
        for count, entry in enumerate(entries, 1):
            samples |= {name: value for name, value in entry.items() if samples.get(name) is None}
            if count % ENOUGH == 0 and norms_among(list(samples), self.column):
                break
        if not count:
            raise NoNormError(self.path, "there is no whole record in it. Wait for the first, or name another file.")
        fields = choose(list(samples), self.column, self.path, self.called)
        self.fields = {role: name for role, name in fields.items() if _is_a(role, samples[name])}

    def refuse(self, problem: str, line: int | None = None) -> NoReturn:
        """Raise a `ReadError` about a line, or about the file."""
        raise ReadError(self.path, problem, line=line, part=self.part)

    def noticed(self) -> tuple[str, ...]:
        """Return what is to be remarked on."""
        torn = sorted(self.torn)
        places = f"Line {torn[0]} is" if len(torn) == 1 else f"Lines {listed(torn, 5)} are"
        first = [f"{places} torn, as where a writer is stopped, and left out."] if torn else []
        thinned = [
            f"Of {found.seen} lines with {what}, one in {found.stride} is kept."
            for role, what in (("each", "norms of parameters"), ("nonfinite", "parameters that are not finite"))
            if (found := self.details[role]).stride > 1
        ]
        return (*first, *self.remarks, *thinned)


def _is_a(role: str, sample: Any) -> bool:
    """Say whether a column holds text, objects or lists where these are read; a run may be called by a number."""
    kinds = {str: (str, int) if role == "run" else str, dict: dict, list: list}
    return sample is None or isinstance(sample, kinds.get(FIELDS[role].kind, object))
