"""What a demo leaves in its folder: the steps, the records of the runs, a picture, and the report over the records."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from shlex import quote

from rich.console import Console

from gradclip.cli import UserError, target
from gradclip.cli.demo.training import Run
from gradclip.cli.page import MOST_RUNS, PACKAGES
from gradclip.cli.say import say
from gradclip.extras import how_to_install, missing
from gradclip.records.line import line_of

STEPS, PICTURE, REPORT = "steps.csv", "demo.png", "report.html"

_write = partial(target.write, "--out", force=True)


def check(out: Path, names: Iterable[str]) -> None:
    """Make the folder before the training: who waits for a minute should not learn then that nothing can be written.

    Raises:
        UserError: If the folder, or a file of runs of these names in it, cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be made a folder ({error.strerror}). Name another.") from None
    for file in (STEPS, PICTURE, REPORT, *map(_record, names)):
        target.check("--out", out / file, force=True)


def save(console: Console, runs: Sequence[Run], out: Path, title: str) -> None:
    """Write the files, the picture with a title, and say which there are and what may be done with them."""
    records = {out / _record(run.name): run for run in runs}
    _write(out / STEPS, _table(runs))
    for path, run in records.items():
        _write(path, b"".join(map(line_of, run.clips)))
    written = [STEPS]
    if _has(console, "picture", "matplotlib"):
        from gradclip.cli.demo.picture import draw  # noqa: PLC0415 -- matplotlib may be missing

        _write(out / PICTURE, draw(runs, title))
        written.append(PICTURE)
    if _has(console, "report", *PACKAGES):
        _report(records, out / REPORT)
        written.append(REPORT)
    kept = "the record of the run" if len(runs) == 1 else f"the records of {len(runs)} runs"
    say(console, f"Written to the folder {out}: {', '.join(written)} and {kept}.", wrap=False)
    # The run with clipping says more: one that exploded tells no threshold.
    say(console, f"To hear which threshold fits: gradclip advise {quote(str([*records][:2][-1]))}", wrap=False)


def _record(run: str) -> str:
    return f"{run.replace(' ', '-')}.jsonl"


def _has(console: Console, thing: str, *packages: str) -> bool:
    """Say which of some packages is missing for a thing, and whether none is."""
    if (package := missing(*packages)) is not None:
        say(console, f"No {thing} without {package}: {how_to_install('report')}")
    return package is None


def _table(runs: Iterable[Run]) -> bytes:
    """Return one row a step for spreadsheets and data frames; what is not finite as `inf` or `nan`."""
    written = io.StringIO(newline="")
    rows = csv.writer(written)
    rows.writerow(["run", "step", "bits_per_character", "gradient_norm", "clipped", "skipped"])
    for run in runs:
        for clip, bits, norm in zip(run.clips, run.bits, run.norms, strict=False):
            rows.writerow([run.name, clip.step, bits, norm, int(clip.clipped), int(clip.skipped)])
    return written.getvalue().encode()


def _report(records: Mapping[Path, Run], out: Path) -> None:
    """Write the report about the first run with clipping, beside that without and as many others as fit."""
    from gradclip.analysis.reading import read_series  # noqa: PLC0415 -- polars and plotly may be missing
    from gradclip.cli.page.build import build  # noqa: PLC0415

    runs = [replace(read_series(path), source=run.name) for path, run in records.items()]
    build([*runs[1:2], runs[0], *runs[2:]][:MOST_RUNS], out, force=True)
