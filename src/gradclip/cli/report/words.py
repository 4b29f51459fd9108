"""Counts and moments as people read them, beside what all commands say alike."""

from datetime import datetime, timezone

from gradclip.cli.words import amount, printable, shortened

__all__ = ["amount", "count", "moment", "printable", "shortened"]

UNKNOWN = "not recorded"


def count(value: int) -> str:
    """Return a whole number with its thousands set apart."""
    return f"{value:,}"


def moment(seconds: float) -> str:
    """Return a moment given in seconds since 1970, in UTC."""
    try:
        return datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, OSError, ValueError):
        return UNKNOWN
