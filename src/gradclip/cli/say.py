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
    shown = "".join(character if character.isprintable() else "\N{MIDDLE DOT}" for character in line)
    shown = shown.encode(console.encoding, "replace").decode(console.encoding)
    console.print(Text(shown), soft_wrap=not (wrap and console.is_terminal))
