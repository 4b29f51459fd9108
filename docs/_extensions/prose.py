"""Docstrings whose types stand in the signature: a colon in a sentence is a colon.

Napoleon takes what stands before the first colon of "Returns:", or of the docstring of a property, for a type. Colons
are hidden there before it works, and shown again after.
"""

from sphinx.application import Sphinx

HIDDEN = "\ue000"


def setup(app: Sphinx) -> dict[str, bool]:
    """Work before and after napoleon, whose place is 500."""
    app.connect("autodoc-process-docstring", hide, priority=400)
    app.connect("autodoc-process-docstring", show, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def hide(_app: Sphinx, what: str, _name: str, _thing: object, _options: object, lines: list[str]) -> None:
    """Hide the colons of properties' first lines, and of the lines below "Returns:" and "Yields:"."""
    section = "Returns:" if what in {"property", "attribute"} else ""
    for i, line in enumerate(lines):
        if line and not line.startswith(" "):
            section = line if i else section
        if section in {"Returns:", "Yields:"} and line != section:
            lines[i] = line.replace(":", HIDDEN)


def show(_app: Sphinx, _what: str, _name: str, _thing: object, _options: object, lines: list[str]) -> None:
    """Show them again."""
    lines[:] = [line.replace(HIDDEN, ":") for line in lines]
