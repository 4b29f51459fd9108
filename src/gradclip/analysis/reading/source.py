"""What is asked of a recorded run, and what is noticed while it is read."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, final

from gradclip.analysis.reading.details import Details
from gradclip.analysis.reading.error import ReadError, listed
from gradclip.analysis.reading.names import Fields, choose


@final
@dataclass
class Source:
    """A file or folder that is being read.

    Attributes:
        path: As it was named.
        column: The column of the norm, where it is given.
        run: The run that is meant, where a table holds several.
        part: What the numbers of lines count, for messages.
        any_order: Whether rows may be in no order at all, as in a table.
        fields: The names of columns in the file by what is read from them, once they are chosen.
        details: What single lines say beyond numbers.
        torn: Lines that end within their record.
        remarks: What else is to be remarked on.
    """

    path: Path
    column: str | None = None
    run: str | None = None
    part: str = "line"
    any_order: bool = False
    fields: Fields = field(default_factory=dict)
    details: Details = field(default_factory=Details)
    torn: list[int] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def sample(self, entries: Iterable[Mapping[str, Any]], enough: int) -> dict[str, Any]:
        """Return the names in the first entries, with a value each; in more where the norm is not among so many."""
        samples: dict[str, Any] = {}
        for count, entry in enumerate(entries, 1):
            samples |= {name: value for name, value in entry.items() if samples.get(name) is None}
            if count % enough == 0:
                with suppress(ReadError):
                    self.choose(samples)
                    break
        return samples

    def choose(self, samples: Mapping[str, Any], kind: str = "column") -> None:
        """Choose the columns to read from their names, with a value each: what is no name is not read as one."""
        words = {"policy": str, "optimizer": str, "group": str, "run": (str, int)}
        fields = choose(list(samples), self.column, self.path, kind)
        self.fields = {
            role: name
            for role, name in fields.items()
            if samples[name] is None or isinstance(samples[name], words.get(role, object))
        }

    def refuse(self, problem: str, line: int | None = None) -> NoReturn:
        """Raise a `ReadError` about a line, or about the file."""
        raise ReadError(self.path, problem, line=line, part=self.part)

    def noticed(self) -> list[str]:
        """Return what is to be remarked on so far."""
        if not self.torn:
            return self.remarks
        places = f"Line {self.torn[0]} is" if len(self.torn) == 1 else f"Lines {listed(self.torn, 5)} are"
        return [f"{places} torn, as where a writer is stopped, and left out.", *self.remarks]
