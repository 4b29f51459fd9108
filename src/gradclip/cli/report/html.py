"""Markup that cannot be broken into: text becomes `Html` here alone, and only `Html` enters an element."""

import html
import json
from collections.abc import Iterable
from typing import Any, NewType

from gradclip.cli.report.words import printable, shortened

Html = NewType("Html", str)
"""Markup that is safe to put on the page; the type checker keeps other strings out."""

VOID = frozenset({"input", "br", "meta", "col"})
"""Elements that have no end."""


def text(value: str) -> Html:
    """Return a text as markup that shows it."""
    return Html(html.escape(printable(value)))


def join(parts: Iterable[Html]) -> Html:
    """Return several pieces one after the other."""
    return Html("".join(parts))


def tag(name: str, /, *children: Html, **attributes: str | bool) -> Html:
    """Return an element.

    Args:
        name: What it is.
        children: What is in it.
        attributes: Its attributes: `class_` is `class`, `aria_label` is `aria-label`. True is an attribute without a
            value, False none at all.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value is not False)
    return Html(f"<{name}{written}>" if name in VOID else f"<{name}{written}>{''.join(children)}</{name}>")


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(printable(str(value)))}"'


def code(name: str) -> Html:
    """Return a name out of a file, or a line of code; it may break anywhere, and its direction stays its own."""
    return tag("code", text(shortened(name)))


def exact(value: float, shown: str, /, **attributes: str) -> Html:
    """Return a number as it is shown, with all its digits for whoever reads the page by program."""
    return tag("data", text(shown), value=repr(value), **attributes)


def embedded(data: Any) -> Html:
    """Return data as JSON that nothing can end early: no `<`, no `>`, no `&`, and ASCII alone."""
    written = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return Html(written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
