"""What the page reads out of its data, read by the standard library."""

import base64
import json
import struct
import zlib
from typing import Any

from cli.report.markup import by_id, parsed


def inflated(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))


def unpacked(packed: str, kind: str) -> list[float]:
    """Numbers, little-endian."""
    data = inflated(packed)
    return list(struct.unpack(f"<{len(data) // struct.calcsize(kind)}{kind}", data))


def data_of(source: str) -> dict[str, Any]:
    """All that the charts of a page are drawn from."""
    return json.loads(by_id(parsed(source), "data").text)


def figure_of(source: str, name: str) -> dict[str, Any]:
    """A chart of a page, as plotly reads it."""
    return json.loads(inflated(data_of(source)["figures"][name]))
