"""The command: the findings, printed."""

import sys
from typing import Annotated

import typer


def doctor(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a table in Markdown, for a bug report.")] = False,  # noqa: FBT002
) -> None:
    """Show which backend runs here and why, and what a bug report needs to say about this machine."""
    from gradclip.cli.doctor.findings import findings  # noqa: PLC0415 -- torch is not needed for --help

    if markdown:
        rows = [("", "gradclip doctor"), ("---", "---"), *((name, _cell(words)) for name, words in findings())]
        sys.stdout.writelines(f"| {name} | {words} |\n" for name, words in rows)
        return
    import rich.table  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    table = rich.table.Table.grid("", rich.table.Column(overflow="fold"), padding=(0, 2))
    for name, words in findings():
        table.add_row(name, words)
    Console(soft_wrap=True).print(table, markup=False, highlight=False)


def _cell(words: str) -> str:
    return " ".join(words.replace("|", r"\|").split())
