"""Docstrings and signatures, as they are written here.

A colon in a sentence is a colon, since types stand in the signature.

Napoleon takes what stands before the first colon of "Returns:", or of the docstring of a property, for a type. Colons
are hidden there before it works, and shown again after.
"""

from sphinx.application import Sphinx

from gradclip.validation import REQUIRED

HIDDEN = "\ue000"


def setup(app: Sphinx) -> dict[str, bool]:
    """Work before and after napoleon, whose place is 500."""
    app.connect("autodoc-process-docstring", hide, priority=400)
    app.connect("autodoc-process-docstring", show, priority=600)
    app.connect("autodoc-process-signature", require)
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


def require(
    _app: Sphinx, _what: str, _name: str, _thing: object, _options: object, signature: str | None, answer: str | None
) -> tuple[str | None, str | None]:
    """Show an argument without a default as one: dataclasses cannot have it after those of their base."""
    return (None if signature is None else signature.replace(f" = {REQUIRED!r}", "")), answer
