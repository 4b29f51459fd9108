"""The command: which threshold to clip at, from a recorded run."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from gradclip.cli import UserError
from gradclip.cli.recorded import AsJson, Column, RunFile, RunName, read

if TYPE_CHECKING:
    from gradclip.analysis import Advice


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
            help="What the run was clipped at, if its file does not say.",
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="The class of its optimizer, such as AdamW, if its file does not say."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Recommend a threshold from a recorded run, or say why it does not show one."""
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


def _show(advice: "Advice") -> None:
    from rich import box  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from gradclip.analysis.amounts import digits, percent  # noqa: PLC0415
    from gradclip.cli.say import say  # noqa: PLC0415

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
