"""What people write for numbers, and for none."""

from typing import Any

MISSING = ("", "-", "--", "none", "null", "n/a", "na", "<na>", "#n/a")
"""Words for no number, in lower case."""

LARGEST_STEP = 2**63 - 1
"""The largest integer of 64 bits."""


def number(value: Any) -> float | None:
    """Return what a value of JSON or a cell of a table says, None for no number.

    Raises:
        ValueError: If it says something else.

    Example:
        >>> from gradclip.analysis.reading.text import number
        >>> number("NaN"), number(" 1.5 "), number("-"), number(2)
        (nan, 1.5, None, 2.0)
    """
    if type(value) is float:  # as nearly always
        return value
    if isinstance(value, str):
        word = value.strip()
        if "_" in word:  # which float() takes
            raise ValueError(word)
        return None if word.lower() in MISSING else float(word)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(value)  # noqa: TRY004 -- one error for all that a file may hold
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(value) from error


def plain(text: str) -> str:
    """Return text that can be written anywhere: JSON may name halves of characters."""
    return text.encode("utf-8", "replace").decode()
