"""The commands together."""

import re

import pytest

from gradclip.cli import main

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
