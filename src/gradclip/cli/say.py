"""Lines of text for a terminal, or for a file in its place."""

from rich.console import Console
from rich.text import Text


def say(console: Console, line: str, *, wrap: bool = True) -> None:
    """Print a line as it is, without markup.

    Args:
        console: Where to.
        line: The text. What a terminal would obey and what the encoding lacks is replaced: it may quote any file.
        wrap: Whether a terminal too narrow for the line breaks it between words. Piped, it stays whole.
    """
    console.print(Text(sayable(line, console.encoding)), soft_wrap=not (wrap and console.is_terminal))


def sayable(text: str, encoding: str) -> str:
    """Return a text as a terminal can show it, and obeys none of it."""
    shown = "".join(character if character.isprintable() else "\N{MIDDLE DOT}" for character in text)
    if "\N{HORIZONTAL ELLIPSIS}".encode(encoding, "ignore") == b"":
        shown = shown.replace("\N{HORIZONTAL ELLIPSIS}", "...")
    return shown.encode(encoding, "replace").decode(encoding)
