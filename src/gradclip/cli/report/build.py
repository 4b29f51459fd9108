"""A report from runs that are there already, as `gradclip report` and other commands write it."""

from collections.abc import Sequence
from pathlib import Path

from gradclip.cli import target
from gradclip.cli.report.findings import find
from gradclip.cli.report.install import check_packages
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
        UserError: If a package is missing, or the file cannot be written.
    """
    check_packages()
    from gradclip.cli.report.page import page_of  # noqa: PLC0415 -- only now is it known that it can be imported

    page = page_of(find(runs)).encode()
    target.write("--out", out, page, force=force)
    return len(page)
