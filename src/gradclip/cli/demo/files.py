"""What a demo leaves in its folder: the steps, the records of the runs, a picture, and the report over the records."""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from rich.console import Console

from gradclip.cli import UserError, target
from gradclip.cli.demo.runs import Run
from gradclip.cli.page import PACKAGES
from gradclip.cli.say import say
from gradclip.extras import how_to_install, missing
from gradclip.records.line import line_of

STEPS, PICTURE, REPORT = "steps.csv", "demo.png", "report.html"


def check(out: Path, names: Iterable[str]) -> None:
    """Make the folder before the training: who waits for a minute should not learn then that nothing can be written.

    Raises:
        UserError: If the folder, or a file of runs of these names in it, cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be made a folder ({error.strerror}). Name another.") from None
    for path in (out / STEPS, out / PICTURE, out / REPORT, *(_record(out, name) for name in names)):
        target.check("--out", path, force=True)


def save(console: Console, runs: Sequence[Run], out: Path, title: str) -> None:
    """Write the files, the picture with a title, and say which there are and what may be done with them."""
    _write(out / STEPS, _table(runs))
    records = [_record(out, run.name) for run in runs]
    for path, run in zip(records, runs, strict=True):
        _write(path, b"".join(line_of(step.clip) for step in run.steps))
    written = [STEPS]
    if _has(console, "picture", "matplotlib"):
        from gradclip.cli.demo.picture import draw  # noqa: PLC0415 -- matplotlib may be missing

        _write(out / PICTURE, draw(runs, getattr(runs[-1].policy, "max_norm", math.inf), title))
        written.append(PICTURE)
    if _has(console, "report", *PACKAGES):
        _report(records, [run.name for run in runs], out / REPORT)
        written.append(REPORT)
    kept = "the record of the run" if len(runs) == 1 else f"the records of {len(runs)} runs"
    say(console, f"Written to the folder {out}: {', '.join(written)} and {kept}.", wrap=False)
    # The run with clipping says more: one that exploded tells no threshold.
    say(console, f"To hear which threshold fits: gradclip advise {quote(str(records[:2][-1]))}", wrap=False)


def _table(runs: Iterable[Run]) -> bytes:
    """Return one row a step for spreadsheets and data frames; what is not finite as `inf` or `nan`."""
    written = io.StringIO(newline="")
    rows = csv.writer(written)
    rows.writerow(["run", "step", "bits_per_character", "gradient_norm", "clipped", "skipped"])
    for run in runs:
        rows.writerows(
            (run.name, step.clip.step, step.bits, step.norm, int(step.clip.clipped), int(step.clip.skipped))
            for step in run.steps
        )
    return written.getvalue().encode()


def _report(records: Sequence[Path], names: Sequence[str], out: Path) -> None:
    """Write the report about the first run with clipping, beside that without and as many others as fit."""
    from gradclip.analysis.reading import read_series  # noqa: PLC0415 -- polars and plotly may be missing
    from gradclip.cli.page.build import build  # noqa: PLC0415
    from gradclip.cli.page.runs import MOST_RUNS  # noqa: PLC0415

    runs = [replace(read_series(path), source=name) for path, name in zip(records, names, strict=True)]
    build([*runs[1:2], runs[0], *runs[2:]][:MOST_RUNS], out, force=True)


def _has(console: Console, thing: str, *packages: str) -> bool:
    """Say which of some packages is missing for a thing, and whether none is."""
    if (package := missing(*packages)) is not None:
        say(console, f"No {thing} without {package}: {how_to_install('report')}")
    return package is None


def _record(out: Path, run: str) -> Path:
    return out / f"{run.replace(' ', '-')}.jsonl"


def _write(path: Path, data: bytes) -> None:
    target.write("--out", path, data, force=True)
