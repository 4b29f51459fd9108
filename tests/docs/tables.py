"""The tables of names in other libraries, as the pages have them, and how their cells are read."""

import importlib
import math
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import gradclip
from conftest import skip_without
from gradclip import policies

PAGES = Path(__file__).parents[2] / "docs" / "how-to" / "coming-from"


def rows(name: str) -> list[tuple[str, str]]:
    """The code in the last two cells of each row of a page."""
    lines = re.findall(r"^\|(.*)\|$", (PAGES / f"{name}.md").read_text("utf-8"), flags=re.MULTILINE)
    cells = [[cell.strip() for cell in line.split(" | ")] for line in lines if "---" not in line]
    return [(row[-2].strip("`"), row[-1].strip("`")) for row in cells if row[-1].startswith("`")]


def needed(name: str, of: str = "oracles") -> ModuleType:
    """Import a package, or skip the test where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        skip_without(of, f"{name} cannot be imported: {error}")
        raise


def evaluated(code: str, **names: Any) -> Any:
    """Evaluate a cell of a page."""
    return eval(code, {"gradclip": gradclip, "math": math, "torch": torch, **vars(policies), **names})  # noqa: S307 -- our own page
