"""The commands of `gradclip`, gathered.

One module or folder a command, none of which imports another. Each exposes one function: its name is the command, its
docstring the help, its annotated arguments the options. To add one, import it and append it to `COMMANDS`. What is slow
to import (rich, matplotlib) stays inside the function, so that `gradclip --help` is quick.
"""

import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from gradclip.cli import INTERRUPTED, UserError
from gradclip.cli.advise import advise
from gradclip.cli.bench.command import bench
from gradclip.cli.demo.command import demo
from gradclip.cli.doctor import doctor
from gradclip.cli.replay import replay
from gradclip.cli.report import report
from gradclip.cli.run import SETTINGS
from gradclip.cli.run import run as run_script
from gradclip.cli.watch.command import watch

COMMANDS: tuple[Callable[..., object], ...] = (demo, run_script, advise, replay, report, watch, doctor, bench)

USAGE_ERROR: type[Exception] = typer.BadParameter.mro()[1]
"""What typer raises for a wrong command, option or value; it has no public name there."""

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # in which a paragraph may go over several lines
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in COMMANDS:
    app.command(context_settings=SETTINGS if command is run_script else None)(command)


@app.callback(invoke_without_command=True)
def gradclip(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,  # noqa: FBT002
) -> None:
    """Gradient clipping for PyTorch: see what it does, which threshold a run needs, and what it costs."""
    if version:
        typer.echo(f"gradclip {importlib.metadata.version('gradclip')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: Sequence[str] | None) -> int:
    """Run one command and turn what the user can put right into one line on stderr.

    Returns:
        The exit code.
    """
    try:
        result: object = app(args=arguments, prog_name="gradclip", standalone_mode=False)
    except (UserError, USAGE_ERROR) as error:
        sys.stderr.write(f"gradclip: {_one_line(error)}\n")
        return 2
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except OSError as error:
        if error.filename is not None:  # which no command has looked at
            raise
        sys.stderr.write(f"gradclip: the output cannot be written ({error.strerror}). Write it to another place.\n")
        _drop_output()
        return 2
    if callable(result):  # a script of the user's, whose errors are no business of this command
        return result()
    return result if isinstance(result, int) else 0


def _drop_output() -> None:
    """Let go of what waits to be written: as it ends, Python would try again, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _one_line(error: Exception) -> str:
    # A usage error of typer words itself in format_message, and knows the command whose help explains more.
    message = str(getattr(error, "format_message", error.__str__)()).strip()
    path = getattr(getattr(error, "ctx", None), "command_path", None)
    if path is not None:
        message = f"{message}{'' if message.endswith(('.', '?')) else '.'} See {path} --help."
    # A file name may hold anything, line breaks and terminal codes included.
    return "".join(c if c.isprintable() else "?" for c in " ".join(message.split()))
