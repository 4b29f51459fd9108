"""The steps of all runs, as a file for a spreadsheet or a data frame."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from gradclip.cli import target
from gradclip.cli.demo.outcome import Outcome


def write_steps(outcomes: Iterable[Outcome], path: Path) -> None:
    """Write one row a step: run, step, bits per character, gradient norm, and 1 where it was clipped, or skipped.

    What is not finite is written as `inf` or `nan`, which NumPy and pandas read.
    """
    written = io.StringIO(newline="")
    rows = csv.writer(written)
    rows.writerow(["run", "step", "bits_per_character", "gradient_norm", "clipped", "skipped"])
    for outcome in outcomes:
        rows.writerows((outcome.name, *r[:3], int(r.clipped), int(r.skipped)) for r in outcome.records)
    target.write("--out", path, written.getvalue().encode(), force=True)
