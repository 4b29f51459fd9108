"""TensorBoard: an event file, or those of one run in a folder.

The scalars of a tag are read, in the form of old (`simple_value`) and as tensors; and of other tags with usual names
what stands at the same steps. The files of a folder are read in the order of their names, which is that of time. A step
that was written again counts as it was written last.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from gradclip.analysis.reading.error import ReadError
from gradclip.analysis.reading.names import FLAGS, may_be_of_use
from gradclip.analysis.reading.source import Source

FRAME = 16
"""Bytes around each record of an event file: its length and two checksums."""


def read_events(source: Source) -> Iterator[pl.DataFrame]:
    """Return a row for each norm in event files: those of one run, in the order of time.

    Raises:
        ReadError: If they hold none, or tensorboard is not installed.
    """
    points: dict[str, tuple[array[int], array[float]] | None] = {}
    place = 0
    for file in source.files:
        size, read = file.stat().st_size, 0
        for length, event in _events(file):
            read += length + FRAME
            for value in event.summary.value:
                place += 1
                if (number := _scalar(value)) is None:
                    continue
                if value.tag not in points:
                    points[value.tag] = (array("q"), array("d")) if may_be_of_use(value.tag, source.column) else None
                if (columns := points[value.tag]) is not None:
                    columns[0].extend((place, event.step))
                    columns[1].extend((number, event.wall_time))
        if size and not read:
            raise ReadError(file, "it is no event file, or damaged from its beginning. Leave it out, or copy it again.")
        if read < size:
            source.remarks.append(f"{file.name} is torn at byte {read} of {size}; what comes after it is left out.")
    source.choose([dict.fromkeys(points)])
    yield _rows({role: _frame(role, *found) for role, tag in source.fields.items() if (found := points[tag])})


def _frame(role: str, whole: array[int], real: array[float]) -> pl.DataFrame:
    columns = {"line": whole[::2], "steps": whole[1::2], role: real[::2], "times": real[1::2]}
    return pl.DataFrame({name: pl.Series(name, memoryview(column)) for name, column in columns.items()})


def _rows(frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return a row for each norm, and for each flag at a step without one: a norm that was not finite is not logged."""
    rows = frames["norms"]
    for flag in filter(frames.__contains__, FLAGS):
        alone = frames[flag].drop(flag).join(rows, on="steps", how="anti")
        rows = pl.concat([rows, alone], how="diagonal")
    rows = rows.sort("line")
    for role, frame in frames.items():
        if role not in rows.columns:
            last = frame.unique("steps", keep="last", maintain_order=True).select("steps", role)
            rows = rows.join(last, on="steps", how="left", maintain_order="left")
    return rows


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
