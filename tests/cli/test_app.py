"""The commands together."""

import re
from pathlib import Path

import pytest

from gradclip.cli import main
from processes import GRADCLIP, run

COMMANDS = ["demo", "run", "advise", "replay", "report", "watch", "doctor", "bench"]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_help_lists_the_commands_in_their_order(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    listed = capsys.readouterr().out.partition("Commands")[2]
    assert re.findall(r"^\W+([a-z]+) {2,}[A-Z]", listed, flags=re.MULTILINE) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"Usage: gradclip {command} [OPTIONS]" in capsys.readouterr().out


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="there is no disk that is always full")
@pytest.mark.parametrize("words", [["doctor"], ["run", "--policy", "help"], ["--help"]], ids=" ".join)
def test_an_output_that_cannot_be_written_is_said_in_one_line(words: list[str]) -> None:
    """As on a full disk: by rich, and by typer."""
    onto_full = f"import os; os.dup2(os.open({str(FULL)!r}, os.O_WRONLY), 1); {GRADCLIP}"
    done = run(onto_full, *words)
    assert done.stderr == (
        "gradclip: the output cannot be written (No space left on device). Write it to another place.\n"
    )
    assert done.returncode == 2
