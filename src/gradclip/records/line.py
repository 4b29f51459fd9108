"""A record as a line of strict JSON: `json.dumps(record.to_dict())`, with null for what is NaN or infinite."""

import json
import math
from typing import Any

from gradclip.records.record import ClipRecord

_encode = json.JSONEncoder(allow_nan=False, check_circular=False).encode


def line_of(record: ClipRecord) -> bytes:
    """Return a record as a line with its end, in ASCII."""
    values = record.to_dict()
    try:
        line = _encode(values)
    except ValueError:  # there is a number in it that is not finite
        line = _encode(_with_nulls(values))
    return f"{line}\n".encode()


def _with_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nulls(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_nulls(x) for x in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
