"""A record as a line of strict JSON: what `json.dumps(record.to_dict())` returns, faster, with null for what is NaN."""

import json
import math
from typing import Any

from gradclip.records.record import ClipRecord

_encode = json.JSONEncoder(allow_nan=False, check_circular=False).encode


def line_of(record: ClipRecord) -> bytes:
    """Return a record as a line with its end, in ASCII."""
    return (
        f'{{"step": {record.step:d}, "time": {_number(record.time)}, "status": {_any(record.status)}, '
        f'"total_norm": {_number(record.total_norm)}, "total_norm_after": {_number(record.total_norm_after)}, '
        f'"threshold": {_number(record.threshold)}, "coefficient": {_number(record.coefficient)}, '
        f'"policy": {_any(record.policy)}, "worst": {_some(record.worst)}, "group": {_any(record.group)}, '
        f'"lr": {_number(record.lr)}, "loss": {_number(record.loss)}, "nonfinite": {_any(record.nonfinite)}, '
        f'"norms": {_any(record.norms)}, "alarms": {_some(record.alarms)}}}\n'
    ).encode()


def _number(value: float | None) -> str:
    if isinstance(value, float):
        return float.__repr__(value) if -math.inf < value < math.inf else "null"
    return _any(value)


def _some(value: tuple[Any, ...]) -> str:
    return _any(value) if value else "[]"


def _any(value: Any) -> str:
    if value is None:
        return "null"
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
