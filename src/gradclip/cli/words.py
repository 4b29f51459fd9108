"""Amounts and names as people read them."""

import math

LONGEST_NAME = 160
"""Characters of a name that are shown: its beginning and its end."""


def amount(value: float) -> str:
    """Return a norm or a threshold with four digits.

    Example:
        >>> [amount(x) for x in (0.83417, 1234567.0, 3.2e-7, 12.0)]
        ['0.8342', '1.235e+06', '3.2e-07', '12']
    """
    if not math.isfinite(value):
        return "not finite" if math.isnan(value) else "infinite"
    digits = f"{value:.4g}"
    rounded = float(digits)
    return f"{rounded:,.0f}" if 1000 <= abs(rounded) < 1e6 else digits  # noqa: PLR2004


def count(value: int) -> str:
    """Return a whole number with its thousands set apart."""
    return f"{value:,}"


def printable(text: str) -> str:
    r"""Return a text with characters spelled out that a page would obey and nobody would see.

    Example:
        >>> printable("a\u202eb\x00")
        'a\\u202eb\\x00'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shortened(name: str, most: int = LONGEST_NAME) -> str:
    """Return a name out of a file, printable, and cut in the middle where it has more than so many characters."""
    shown = printable(name)
    if len(shown) <= most:
        return shown
    half = most // 2 - 1
    return f"{shown[:half]} \N{HORIZONTAL ELLIPSIS} {shown[-half:]}"
