"""The options of `gradclip report`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradclip.cli import UserError, target
from gradclip.cli.page import MOST_RUNS, PACKAGES
from gradclip.cli.recorded import Column, RunFile, RunName, read
from gradclip.extras import how_to_install, missing

if TYPE_CHECKING:
    from gradclip.analysis.series import Series


def report(
    run: RunFile,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where the page goes.")] = Path(
        "report.html"
    ),
    compare: Annotated[
        list[Path] | None, typer.Option(metavar="OTHER", help="Another run on the same axes; more than once.")
    ] = None,
    column: Column = None,
    name: RunName = None,
    *,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write charts and tables of a recorded run to one HTML file that needs no network."""
    from rich.console import Console  # noqa: PLC0415 -- not needed for --help

    if (package := missing(*PACKAGES)) is not None:
        raise UserError(f"the report needs {package}: {how_to_install('report')}")
    from gradclip.cli.page.build import build  # noqa: PLC0415 -- only now is it known that it can be imported

    paths = [run, *(compare or [])]
    if len(paths) > MOST_RUNS:
        raise UserError(f"--compare must be given at most {MOST_RUNS - 1} times, got {len(paths) - 1}. Leave some out.")
    target.check("--out", out, sources=paths, source="one of the runs", force=force)
    with Console(stderr=True).status("Reading, replaying, drawing"):  # on a terminal: a million steps take a while
        size = build(_read(paths, column, name), out, force=force)
    typer.echo(f"Written: {out} ({size / 1e6:.1f} MB). Open it in a browser.")


def _read(paths: Sequence[Path], column: str | None, run: str | None) -> "list[Series]":
    runs: list[Series] = []
    for path, name in zip(paths, names_of(paths), strict=True):
        series = read(path, column, run)
        if not len(series):
            raise UserError(f"{path}: no steps are recorded in it. Record some, or name another file.")
        runs.append(replace(series, source=name))
    return runs


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return short names that tell files apart: as much of the end of each path as it takes.

    Example:
        >>> names_of([Path("runs/a/clip.jsonl"), Path("runs/b/clip.jsonl"), Path("runs/old.csv")])
        ['a/clip.jsonl', 'b/clip.jsonl', 'old.csv']
    """
    parts = [[part for part in path.parts if part not in {path.anchor, ".", ".."}] for path in paths]
    ends = [["/".join(own[-length:]) for length in range(1, len(own) + 1)] for own in parts]
    count = Counter(end for own in ends for end in own)
    shortest = [[end for end in own if count[end] == 1][:1] for own in ends]
    return [found[0] if found else "/".join(own[-2:]) for found, own in zip(shortest, parts, strict=True)]
