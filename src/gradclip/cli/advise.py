"""The command: which threshold to clip at, from a recorded run."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from gradclip.cli import UserError

if TYPE_CHECKING:
    from gradclip.analysis import Advice
    from gradclip.analysis.series import Series

STANDARD_INPUT, SOURCE = Path("-"), "standard input"

RunFile = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="JSON Lines, CSV, trainer_state.json, TensorBoard events, or printed text; - for standard input.",
    ),
]
Column = Annotated[str | None, typer.Option(metavar="NAME", help="The column of the norm, where it has no usual name.")]
RunName = Annotated[
    str | None, typer.Option("--run", metavar="NAME", help="The run, where the rows of several stand in one table.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def advise(
    run: RunFile,
    column: Column = None,
    name: RunName = None,
    *,
    warmup: Annotated[
        int | None,
        typer.Option(min=0, metavar="STEPS", help="Steps to leave out at the beginning.", show_default="20 or 5 %"),
    ] = None,
    max_norm: Annotated[
        float | None,
        typer.Option(
            "--max-norm",
            "--bound",
            metavar="X",
            help="What the run was clipped at, where its file does not say.",
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="The class of its optimizer, such as AdamW, where its file does not say."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say which threshold to clip at, or why a recorded run does not tell."""
    from gradclip.analysis import advise as advise_on  # noqa: PLC0415 -- not needed for --help

    if max_norm is not None and not max_norm > 0.0:
        raise UserError(f"--max-norm must be > 0, got {max_norm:g}. Leave it out where nothing was clipped.")
    series = read(run, column, name)
    if max_norm is not None:
        series = series.clipped_at(max_norm)
    try:
        advice = advise_on(series, warmup=warmup, optimizer=optimizer)
    except ValueError as error:
        raise UserError(f"{run}: {error}") from None
    if as_json:
        typer.echo(json.dumps(advice.to_dict(), allow_nan=False))
    else:
        _show(advice)


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


def _show(advice: "Advice") -> None:
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from gradclip.analysis.amounts import digits, percent  # noqa: PLC0415
    from gradclip.cli.demo.display import say  # noqa: PLC0415

    console = Console()
    console.print(Text(advice.headline, style="bold"), soft_wrap=not console.is_terminal)
    if advice.suggestions:
        say(console, advice.usage)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        table.add_column("", min_width=len("conservative"))
        for heading in ("max_norm", "95 % interval", "recorded\nsteps\nclipped", "recorded\nnorm\ncut off"):
            table.add_column(heading, justify="right", min_width=len("< 0.001 %"))
        for each in advice.suggestions:
            table.add_row(
                each.name,
                digits(each.max_norm),
                f"{digits(each.low)} to {digits(each.high)}",
                percent(each.share_clipped),
                percent(each.share_removed),
            )
        console.print(table)
    for note in advice.notes:
        say(console, f"- {note}")
