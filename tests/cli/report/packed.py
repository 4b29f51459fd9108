"""What the page reads out of a packed column, read by the standard library."""

import base64
import struct
import zlib


def unpacked(packed: str, kind: str) -> list[float]:
    """What the page reads: bytes in planes, little-endian."""
    planes = zlib.decompress(base64.b64decode(packed))
    size = struct.calcsize(kind)
    count = len(planes) // size
    data = bytes(planes[plane * count + i] for i in range(count) for plane in range(size))
    return list(struct.unpack(f"<{count}{kind}", data))


def floats(packed: str) -> list[float]:
    return unpacked(packed, "f")
