"""A record as a line of strict JSON: what `json.dumps(record.to_dict())` returns, faster, with null for what is NaN."""

import json
import math
from typing import Any

from gradclip.records.record import FIELDS, ClipRecord, values_of

_LINE = "{" + ", ".join(f'"{name}": %s' for name in FIELDS) + "}\n"

_encode = json.JSONEncoder(allow_nan=False, check_circular=False).encode


def line_of(record: ClipRecord) -> bytes:
    """Return a record as a line with its end, in ASCII."""
    return (_LINE % tuple(map(_word, values_of(record)))).encode()


def _word(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float):
        return float.__repr__(value) if -math.inf < value < math.inf else "null"
    return _any(value) if value != () else "[]"


def _any(value: Any) -> str:
    try:
        return _encode(value)
    except ValueError:  # there is a number in it that is not finite
        return _encode(_with_nulls(value))


def _with_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nulls(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_nulls(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
