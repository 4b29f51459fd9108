"""Blocks that cannot run as they stand: parts of programs, and commands. What they name is there."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from conftest import skip_without
from gradclip.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "README.zh-CN.md"]
COMMANDS = typer.main.get_command(app).commands


def blocks(language: str) -> list[tuple[str, str]]:
    """The blocks in a language, each with the page it is on."""
    pattern = rf"```{language}\n(.*?)```"
    return [(page.name, block) for page in PAGES for block in re.findall(pattern, page.read_text("utf-8"), re.DOTALL)]


@pytest.mark.parametrize(("page", "block"), blocks("py"))
def test_parts_of_programs_import_what_there_is(page: str, block: str) -> None:
    """They are Python, and what they take from gradclip can be taken."""
    for node in ast.walk(ast.parse(block, page)):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.startswith("gradclip"):
            try:
                module = importlib.import_module(node.module)
            except ModuleNotFoundError as error:
                skip_without("integrations", f"{node.module} needs {error.name}")
            assert all(hasattr(module, alias.name) for alias in node.names)


def commands() -> Iterator[list[str]]:
    for _, block in blocks("sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["gradclip"]:
                yield words[1:]


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_commands_and_their_options_exist(words: list[str]) -> None:
    """Of `run`, up to the script, whose options are its own."""
    command, given = COMMANDS[words[0]], words[1:]
    if words[0] == "run":
        given = given[: next(i for i, word in enumerate(given) if word.endswith((".py", "MODULE")))]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in given if word.startswith("-")} <= known
