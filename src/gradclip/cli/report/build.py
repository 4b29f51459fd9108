"""A report from runs that are there already, as `gradclip report` and other commands write it."""

import time
from collections.abc import Sequence
from pathlib import Path

import gradclip
from gradclip.cli import target
from gradclip.cli.report.findings import find
from gradclip.cli.report.install import library
from gradclip.cli.report.page import page
from gradclip.cli.report.runs import Run


def build(runs: Sequence[Run], out: Path, *, force: bool = False) -> int:
    """Write the report over runs into a file.

    Args:
        runs: The runs; the report is about the first, and compares it with the others.
        out: The file.
        force: Whether to replace one that is there.

    Returns:
        Its size in bytes.

    Raises:
        UserError: If plotly is missing, or the file cannot be written.
    """
    written = page(find(runs), library=library(), written=time.time(), version=gradclip.__version__).encode()
    target.write("--out", out, written, force=force)
    return len(written)
