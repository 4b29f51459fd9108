r"""Text as trainers print it: one step a line, with its numbers in one of four ways, whatever stands around them.

    {'loss': '27.62', 'grad_norm': '11.46', 'learning_rate': '1e-05', 'epoch': '0.1'}
    2024-03-08 12:31:36 | INFO | train_inner | {"epoch": 1, "num_updates": "10", "gnorm": "1.25"}
     iteration       10/  250000 | learning rate: 2.999E-04 | lm loss: 2.1E+00 | grad norm: 1.250 |
    2024-03-08 12:31:36 - mmcv - INFO - Epoch [1][50/3757]  lr: 1.0e-02, loss: 2.5, grad_norm: 1.25

- A dict of Python or JSON counts as it is, and of an object that has a printed line for a message, that line. Elsewhere
  a number belongs to the words before its colon or equals sign; after a usual name a blank or a bar is enough.
- A carriage return ends a line: progress bars write one.
- Lines without a norm are left out, without a word: most are about something else. Those are counted that name the norm
  but have no number for it, or none of their step where others do.
"""

import ast
import json
import re
from contextlib import suppress
from functools import lru_cache
from typing import Any

from gradclip.analysis.reading.jsonl import flat
from gradclip.analysis.reading.names import FIELDS, readings

END = re.compile(r"[\r\n]+")
"""What ends a line: progress bars write a carriage return."""

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

MESSAGES = ("log", "message", "msg", "line", "textPayload")
"""What has the printed line where each is in an object of JSON, as Docker's log: `{"log":"step 1 norm 2.5\\n",...}`."""

THOUSANDS = r"[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?"

NUMBER = rf"(?:[-+]?(?:{THOUSANDS}|(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf(?:inity)?)|none|null)"

USUAL = {name for role in ("norms", "steps", "losses", "lrs") for name in FIELDS[role].names}
"""What words may end in that a number may follow without a sign."""

PAIR = re.compile(
    rf"(?<!\w)([a-z_][\w/.@\- ]{{0,60}}?)\s*([:=|\s])\s*({NUMBER}k?)(?=[\s;|)\]}}(/]|,(?!\d)|[.:](?:\s|$)|$)"
)
"""Words, and a number that they name. What they are looked for in may be any text, of any length, in lower case."""

NO_QUOTES = str.maketrans("", "", "\"'")
"""Of quotes around names and numbers nothing is left."""

OTHERS = re.compile(r"\b(?:clipped|max|min|after|post|total|warmup)\b")
"""Words before a usual name that make another of it: of the norm after clipping, or of so many steps in all."""

PLAIN = re.compile(r".*\bgrad.*|(?:.* )?(?:train|training|info|debug)")
"""What may stand before `norm`, which other things than gradients have too."""

COUNTER = re.compile(
    r"(?<!total )(?<!max )(?<!warmup )\b(step|iter|iteration|update|epoch)s?\b(?:\(\w+\))?[\s:=]*\[?"
    r"\s*(\d+)\b(?![.,]\d|\s*%)(?:\]\s*\[\s*(\d+)\b)?"
)
"""A counter, and after an epoch in brackets, that of the iteration within."""

BAR = re.compile(r"%\|[^|]*\| *(\d+)/\d+ *\[")
"""How far a progress bar is: it may be drawn several times at a step."""

BARE = re.compile(r"(?<=[:\s])(-?(?:nan|inf))(?=[,}\s])")
"""How Python prints what is not finite, which it does not read again."""

WRAPPED = re.compile(
    rf"\b(?:(?:np|numpy|torch)\.)?(?:tensor|array|(?:float|int)\d+)\(\[?({NUMBER})[^()]*\)", re.IGNORECASE
)
"""A number as torch and NumPy print it."""

ALONE = re.compile(rf"=\[({NUMBER})\]")
"""A list of one number."""


def entry_of(line: str) -> dict[str, Any]:
    """Return the numbers of a line by their names; none where it is about something else.

    Example:
        >>> from gradclip.analysis.reading.printed import entry_of
        >>> entry_of("INFO:root:step=10 loss 2.5 | mean grad norm: 1,234.5 | 2.3s/it")
        {'step': '10', 'loss': '2.5', 'mean grad norm': '1234.5', 'grad norm': '1234.5'}
    """
    line = (ANSI.sub("", line) if "\x1b" in line else line).strip()
    line = WRAPPED.sub(r"\1", line) if "(" in line else line
    start = line.find("{")
    if start >= 0 and (entry := _dict_of(line[start : line.rfind("}") + 1])):
        message = next((entry[name] for name in MESSAGES if isinstance(entry.get(name), str)), "")
        return _counters(line[:start].lower()) | entry | entry_of(message)
    line = line.lower().translate(NO_QUOTES)
    line = ALONE.sub(r"=\1", line) if "=[" in line else line
    entry: dict[str, Any] = _counters(line)
    if "%|" in line and "iter" not in entry and (bar := BAR.search(line)):
        entry["iter"] = bar[1]
    short: dict[str, dict[str, str]] = {}
    for words, sign, number in PAIR.findall(line):
        if sign in ":=" or _usual_end(words):
            name, value = words.rpartition(" - ")[2], _digits(number)
            entry.setdefault(name, value)
            if end := _usual_end(name):
                short.setdefault(end, {}).setdefault(name, value)
    alone = {end: next(iter(of.values())) for end, of in short.items() if len(of) == 1}
    return entry | {end: value for end, value in alone.items() if end not in entry}


def _counters(line: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word, count, within in COUNTER.findall(line):
        found.setdefault(word, count)
        if within:
            found.setdefault("iter", within)
    return found


@lru_cache(maxsize=4096)
def _usual_end(name: str) -> str:
    """Return the usual name that words end in, where what stands before it makes nothing else of it; else nothing."""
    words = name.split(" ")
    for first in range(len(words)):
        end, before = " ".join(words[first:]), " ".join(words[:first])
        if not USUAL.isdisjoint(word for _, word in readings(end)):
            is_own = end not in ("steps", "norm") or (end == "norm" and PLAIN.fullmatch(before))
            return end if not before or (is_own and not OTHERS.search(before)) else ""
    return ""


def _digits(number: str) -> str:
    """Return a number as Python reads it."""
    number = number.replace(",", "")
    return str(1000.0 * float(number[:-1])) if number[-1] == "k" else number


def is_number(value: Any) -> bool:
    """Say whether a value of JSON, or a cell of a table, is a number or stands for one."""
    return re.fullmatch(NUMBER, str(value).strip(), re.IGNORECASE) is not None


def _dict_of(text: str) -> dict[str, Any]:
    for parse, written in ((json.loads, text), (ast.literal_eval, BARE.sub(r"'\1'", text))):
        with suppress(AttributeError, ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return {str(name): value for name, value in flat(parse(written))}
    return {}
