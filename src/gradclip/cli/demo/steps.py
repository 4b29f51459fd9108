"""The steps of all runs, as a file for a spreadsheet or a data frame."""

import csv
from collections.abc import Iterable
from pathlib import Path

from gradclip.cli.demo.outcome import Outcome


def write_steps(outcomes: Iterable[Outcome], path: Path) -> None:
    """Write one row a step: run, step, bits per character, gradient norm, and 1 where it was clipped, or skipped.

    What is not finite is written as `inf` or `nan`, which NumPy and pandas read.
    """
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["run", "step", "bits_per_character", "gradient_norm", "clipped", "skipped"])
        for outcome in outcomes:
            rows.writerows((outcome.name, *r[:3], int(r.clipped), int(r.skipped)) for r in outcome.records)
