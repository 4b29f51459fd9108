"""A recorded run as commands take it: what it is called, and how it is read."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from gradclip.cli import UserError

if TYPE_CHECKING:
    from gradclip.analysis.series import Series

STANDARD_INPUT, SOURCE = Path("-"), "standard input"

RunFile = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="JSON Lines, CSV, trainer_state.json, TensorBoard events, or printed text; - for standard input.",
    ),
]
Column = Annotated[str | None, typer.Option(metavar="NAME", help="The column of the norm, if it has no usual name.")]
RunName = Annotated[
    str | None, typer.Option("--run", metavar="NAME", help="The run, or group, if a file holds several.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def read(run: Path, column: str | None, name: str | None = None) -> "Series":
    """Read a recorded run, which is on standard input where it is called `-`.

    Raises:
        UserError: If it cannot be read.
    """
    from gradclip.analysis.reading import ReadError, read_series  # noqa: PLC0415

    if run == STANDARD_INPUT:
        with TemporaryDirectory() as folder:
            path = Path(folder, "run")
            with path.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            try:
                return replace(read(path, column, name), source=SOURCE)
            except UserError as error:
                raise UserError(str(error).replace(str(path), SOURCE)) from None
    try:
        return read_series(run, column=column, run=name)
    except ReadError as error:
        raise UserError(str(error)) from None
