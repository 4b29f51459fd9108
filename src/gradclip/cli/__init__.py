"""The command `gradclip`.

The core of gradclip depends on torch alone. What the commands need beside it comes with the extras `cli`
(blessed, numpy, polars, rich, threadpoolctl, typer) and `report` (matplotlib, numpy, polars and what makes the report),
so nothing here is imported before it is known to be there.
"""

import sys
from collections.abc import Sequence

from gradclip.extras import how_to_install, missing

INTERRUPTED = 130
"""The exit code of a process that Ctrl-C ended."""


class UserError(Exception):
    """Something that the user can put right.

    The message says in one line what is wrong and what to do; the command prints it and exits with 2.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The words after `gradclip`; by default, those that the process was started with.

    Returns:
        The exit code: 0 when all went well, 2 for a wrong word, value or file, 130 after Ctrl-C.
    """
    if missing("typer", "rich") is not None:
        sys.stderr.write(f"gradclip: the commands need typer and rich: {how_to_install('cli')}\n")
        return 2
    from gradclip.cli.app import run  # noqa: PLC0415 -- typer may be missing

    return run(arguments)
