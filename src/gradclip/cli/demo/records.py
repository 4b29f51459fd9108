"""The records of each run, as files for the other commands, and the report over them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from gradclip.cli import target
from gradclip.cli.demo.outcome import Outcome
from gradclip.records.line import line_of


def write_records(outcomes: Iterable[Outcome], folder: Path) -> dict[str, Path]:
    """Write a file of JSON Lines for each run, in place of that of an earlier demo, and return them by its name."""
    paths: dict[str, Path] = {}
    for outcome in outcomes:
        paths[outcome.name] = path = folder / file_of(outcome.name)
        target.write("--out", path, b"".join(map(line_of, outcome.clips)), force=True)
    return paths


def file_of(run: str) -> str:
    """Return the name of the file for the records of a run."""
    return f"{run.replace(' ', '-')}.jsonl"


def missing() -> str | None:
    """Return the name of a package that the report needs and that is not there."""
    return next((package for package in ("polars", "plotly") if find_spec(package) is None), None)


def write_report(records: Mapping[str, Path], out: Path) -> None:
    """Write the report over the files of `write_records`, of which the first is the run without clipping.

    It is about the first run with clipping, where there is one, and compares as many others with it as fit.

    Raises:
        UserError: If it cannot be written.
    """
    from gradclip.analysis.reading import read_series  # noqa: PLC0415 -- polars and plotly may be missing
    from gradclip.cli.report.build import build  # noqa: PLC0415
    from gradclip.cli.report.runs import MOST_RUNS, Run  # noqa: PLC0415

    names = list(records)
    shown = [*names[1:2], names[0], *names[2:]][:MOST_RUNS]
    build([Run(name, replace(read_series(records[name]), source=name)) for name in shown], out, force=True)
