"""TensorBoard: an event file, or those of one run in a folder.

The scalars of a tag are read, in the form of old (`simple_value`) and as tensors; and of other tags with usual names
what stands at the same steps. The files of a folder are read in the order of their names, which is that of time. A step
that was written again counts as it was written last.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gradclip.analysis.reading.error import ReadError
from gradclip.analysis.reading.gather import Gathering
from gradclip.analysis.reading.names import choose, may_be_of_use
from gradclip.analysis.reading.scalars import Track, rows_of_tags
from gradclip.analysis.series import Series

FRAME = 16
"""Bytes around each record of an event file: its length and two checksums."""


def read_events(files: Sequence[Path], column: str | None, source: Path) -> Series:
    """Read event files.

    Args:
        files: The files of one run, in the order of time.
        column: The tag of the norm; None for a usual name.
        source: The file or folder that was asked for.

    Returns:
        The run.

    Raises:
        ReadError: If they hold none, or tensorboard is not installed.
    """
    gathering = Gathering(source, "scalar")
    tracks: dict[str, Track | None] = {}
    place = 0
    for file in files:
        size, read = file.stat().st_size, 0
        for length, event in _events(file):
            read += length + FRAME
            for value in event.summary.value:
                place += 1
                if (number := _scalar(value)) is None:
                    continue
                if value.tag not in tracks:
                    tracks[value.tag] = Track() if may_be_of_use(value.tag, column) else None
                if (track := tracks[value.tag]) is not None:
                    track.add(place, event.step, number, event.wall_time)
        if size and not read:
            raise ReadError(file, "it is no event file, or damaged from its beginning. Leave it out, or copy it again.")
        if read < size:
            gathering.remarks.append(f"{file.name} is torn at byte {read} of {size}; what comes after it is left out.")
    fields = choose(list(tracks), column, source, "tag")
    gathering.add(rows_of_tags({role: track for role, tag in fields.items() if (track := tracks[tag]) is not None}))
    return gathering.series()


def _events(file: Path) -> Iterator[tuple[int, Any]]:
    """Return the lengths in bytes and the events of a file, up to a torn or damaged one."""
    try:
        from google.protobuf.message import DecodeError  # noqa: PLC0415 -- only event files need these
        from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader  # noqa: PLC0415
        from tensorboard.compat.proto import event_pb2  # noqa: PLC0415
    except ImportError as error:
        raise ReadError(file, "reading event files needs tensorboard: pip install tensorboard") from error
    parse: Any = vars(event_pb2)["Event"].FromString  # made when the module is imported
    try:
        for record in RawEventFileLoader(os.fspath(file)).Load():
            yield len(record), parse(record)
    except UnicodeEncodeError as error:
        raise ReadError(file, "tensorboard cannot open a file of this name. Rename it.") from error
    except (DecodeError, OverflowError, MemoryError):  # a record that is none, though its checksums are right
        return


def _scalar(value: Any) -> float | None:
    """Return the number of a value of a summary; None where it is an image, a text and so on."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return value.simple_value
    if kind != "tensor" or any(dimension.size != 1 for dimension in value.tensor.tensor_shape.dim):
        return None
    from tensorboard.util.tensor_util import make_ndarray  # noqa: PLC0415

    try:
        found = make_ndarray(value.tensor)
        return float(found.item()) if found.dtype.kind in "fiu" else None
    except (TypeError, ValueError):
        return None
