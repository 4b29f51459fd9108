"""What a demo leaves in its folder, beside the picture: its steps, its records, and the report over these."""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from gradclip.cli import target
from gradclip.cli.demo.runs import Outcome
from gradclip.records.line import line_of


def write_steps(outcomes: Iterable[Outcome], path: Path) -> None:
    """Write one row a step for spreadsheets and data frames; what is not finite as `inf` or `nan`."""
    written = io.StringIO(newline="")
    rows = csv.writer(written)
    rows.writerow(["run", "step", "bits_per_character", "gradient_norm", "clipped", "skipped"])
    for outcome in outcomes:
        rows.writerows((outcome.name, *r[:3], int(r.clipped), int(r.skipped)) for r in outcome.records)
    target.write("--out", path, written.getvalue().encode(), force=True)


def write_records(outcomes: Iterable[Outcome], folder: Path) -> dict[str, Path]:
    """Write a file of JSON Lines for each run, and return them by its name."""
    paths: dict[str, Path] = {}
    for outcome in outcomes:
        paths[outcome.name] = path = folder / file_of(outcome.name)
        target.write("--out", path, b"".join(map(line_of, outcome.clips)), force=True)
    return paths


def file_of(run: str) -> str:
    """Return the name of the file for the records of a run."""
    return f"{run.replace(' ', '-')}.jsonl"


def write_report(records: Mapping[str, Path], out: Path) -> None:
    """Write the report over the files of `write_records`, of which the first is the run without clipping.

    It is about the first run with clipping, where there is one, and compares as many others with it as fit.
    """
    from gradclip.analysis.reading import read_series  # noqa: PLC0415 -- polars and plotly may be missing
    from gradclip.cli.report.page import build  # noqa: PLC0415
    from gradclip.cli.report.runs import MOST_RUNS  # noqa: PLC0415

    names = list(records)
    shown = [*names[1:2], names[0], *names[2:]][:MOST_RUNS]
    build([replace(read_series(records[name]), source=name) for name in shown], out, force=True)
