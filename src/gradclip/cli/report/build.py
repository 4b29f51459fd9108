"""A report from runs that are there already, as `gradclip report` and other commands write it."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from gradclip.cli import UserError, target
from gradclip.extras import how_to_install

if TYPE_CHECKING:
    from gradclip.cli.report.runs import Run

MODULES = ("plotly.offline", "jinja2", "tsdownsample")
"""What the report needs beside what reads a run."""


def build(runs: "Sequence[Run]", out: Path, *, force: bool = False) -> int:
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
    from gradclip.cli.report.findings import find  # noqa: PLC0415 -- only now is it known that it can be imported
    from gradclip.cli.report.page import page_of  # noqa: PLC0415

    page = page_of(find(runs)).encode()
    target.write("--out", out, page, force=force)
    return len(page)


def check_packages() -> None:
    """Say before any work is done which package is missing.

    Raises:
        UserError: If one is.
    """
    try:
        for module in MODULES:
            import_module(module)
    except ImportError as error:
        package = str(error.name).partition(".")[0]
        raise UserError(f"the report needs {package}: {how_to_install('report')}") from None
