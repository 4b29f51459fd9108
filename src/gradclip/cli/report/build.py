"""A report from runs that are there already, as `gradclip report` and other commands write it."""

import time
from collections.abc import Sequence
from pathlib import Path

import gradclip
from gradclip.cli.report.findings import find
from gradclip.cli.report.install import library
from gradclip.cli.report.page import page
from gradclip.cli.report.runs import Run
from gradclip.cli.report.target import write


def build(runs: Sequence[Run], out: Path) -> int:
    """Write the report over runs into a file; one that is there is replaced.

    Args:
        runs: The runs; the report is about the first, and compares it with the others.
        out: The file.

    Returns:
        Its size in bytes.

    Raises:
        UserError: If plotly is missing, or the file cannot be written.
    """
    return write(out, page(find(runs), library=library(), written=time.time(), version=gradclip.__version__))
