"""What people write in lines of text: numbers that have names."""

import ast
import json
import re
from typing import Any

from gradclip.analysis.reading.names import FIELDS

END = re.compile(r"[\r\n]+")
"""What ends a line: progress bars write a carriage return."""

CELLS = re.compile(r'[",;\t|]+')
"""What stands between the cells of a table, of any kind."""

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

DICT = re.compile(r"\{.*\}")

THOUSANDS = r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?"

NUMBER = rf"(?:[-+]?(?:{THOUSANDS}|(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf(?:inity)?)|none|null)"

USUAL = tuple(name for role in ("norms", "steps", "losses", "lrs") for name in FIELDS[role].names)
"""How words end that a number may follow without a sign."""

PAIR = re.compile(rf"(?<!\w)([a-z_][\w/.@\- ]{{0,60}}?)\s*([:=\s])\s*({NUMBER})(?=[\s;|)\]}}%]|,(?!\d)|[.:](?:\s|$)|$)")
"""Words, and a number that they name. What they are looked for in may be any text, of any length, in lower case."""

COUNTER = re.compile(
    r"\b(step|iter|iteration|update|epoch)s?\b(?:\(\w+\))?[\s:=]*\[?\s*(\d+)\b(?![.,]\d)(?:\]\s*\[\s*(\d+)\b)?"
)
"""A counter, and after an epoch in brackets, that of the iteration within."""

BARE = re.compile(r"(?<=[:\s])(-?(?:nan|inf))(?=[,}\s])")
"""How Python prints what is not finite, which it does not read again."""

WRAPPED = re.compile(
    rf"\b(?:(?:np|numpy|torch)\.)?(?:tensor|array|(?:float|int)\d+)\(\[?({NUMBER})[^()]*\)", re.IGNORECASE
)
"""A number as torch and NumPy print it."""


def entry_of(line: str) -> dict[str, Any]:
    """Return the numbers of a line by their names; none where it is about something else.

    Example:
        >>> from gradclip.analysis.reading.text import entry_of
        >>> entry_of("INFO:root:step=10 loss 2.5 | grad norm: 1,234.5 | 2.3s/it")
        {'step': '10', 'loss': '2.5', 'grad norm': '1234.5', 'norm': '1234.5'}
    """
    line = ANSI.sub("", line).strip()
    line = WRAPPED.sub(r"\1", line) if "(" in line else line
    if (found := DICT.search(line)) and (entry := _dict_of(found[0])):
        return entry
    entry: dict[str, Any] = {}
    for word, count, within in COUNTER.findall(line.lower()):
        entry.setdefault(word, count)
        if within:
            entry.setdefault("iter", within)
    pairs = [
        (name, number.replace(",", ""))
        for name, sign, number in PAIR.findall(line.lower())
        if not sign.isspace() or name.replace(" ", "_").replace("-", "_").endswith(USUAL)
    ]
    for name, value in pairs + [(name.rpartition(" ")[2], value) for name, value in pairs]:
        entry.setdefault(name, value)
    return entry


def is_number(value: Any) -> bool:
    """Say whether a value of JSON, or a cell of a table, is a number or stands for one."""
    return re.fullmatch(NUMBER, str(value).strip(), re.IGNORECASE) is not None


def _dict_of(text: str) -> dict[str, Any]:
    for parse, written in ((json.loads, text), (ast.literal_eval, BARE.sub(r"'\1'", text))):
        try:
            found = parse(written)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(found, dict):
            return {str(name): value for name, value in found.items()}
    return {}
