"""Event files, as TensorBoard's own writers make them."""

import math
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from analysis.reading.files import refusal
from conftest import skip_without
from gradclip import ClipRecord
from gradclip.analysis.reading import read_series
from gradclip.records import TensorBoard

try:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    MISSING = str(error)
else:
    MISSING = ""

NAN = math.nan


@pytest.fixture(autouse=True)
def _tensorboard() -> None:
    if MISSING:
        skip_without("tensorboard", MISSING)


def write(folder: Path, tags: dict[str, dict[int, float]], **options: Any) -> Path:
    """Write scalars by tag and step; return the event file."""
    before = set(folder.glob("*"))
    with SummaryWriter(str(folder), **options.pop("writer", {})) as writer:
        for step in sorted({step for values in tags.values() for step in values}):
            for tag, values in tags.items():
                if step in values:
                    writer.add_scalar(tag, values[step], step, walltime=1.7e9 + step, **options)
    (path,) = set(folder.glob("*")) - before
    return path


@pytest.mark.parametrize("new_style", [False, True])
def test_the_scalars_of_a_run(tmp_path: Path, new_style: bool) -> None:
    norms = {1: 1.5, 2: NAN, 3: math.inf, 5: 0.25}
    tags = {"train/grad_norm": norms, "train/loss": {1: 2.0, 3: 4.0, 4: 5.0}, "eval/loss": {1: 9.0}}
    path = write(tmp_path, tags, new_style=new_style)
    for source in (path, tmp_path):
        series = read_series(source)
        assert series.steps.tolist() == [1, 2, 3, 5]
        assert series.norms.tolist() == pytest.approx([1.5, NAN, math.inf, 0.25], nan_ok=True)
        assert series.losses is not None and series.losses.tolist() == pytest.approx([2.0, NAN, 4.0, NAN], nan_ok=True)
        assert series.times is not None and series.times.tolist() == [1.7e9 + step for step in (1, 2, 3, 5)]
        assert series.clipped is None and series.remarks == ()
        assert series.source == str(source)
        assert [event.step for event in series.events] == [2, 3]


def test_tensors_of_one_element_and_of_other_types(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_tensor("grad_norm", torch.tensor([[2.5]], dtype=torch.float64), 1)
        writer.add_tensor("grad_norm", torch.tensor(3), 2)
        writer.add_tensor("grad_norm", torch.tensor([1.0, 2.0]), 3)
        writer.add_text("grad_norm", "four", 4)
        writer.add_histogram("grad_norm", torch.arange(5.0), 5)
        writer.add_scalar("other", 1.0, 6)
    assert read_series(tmp_path).norms.tolist() == [2.5, 3.0]


def test_the_curves_of_our_sink(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        sink = TensorBoard(writer)
        sink(ClipRecord(1, 0.0, "clipped", 4.0, 1.0, 1.0, 0.25, "FixedNorm()", lr=0.5))
        sink(ClipRecord(2, 0.0, "skipped_nonfinite", NAN, NAN, 1.0, NAN, "FixedNorm()", lr=0.5))
        sink(ClipRecord(3, 0.0, "skipped_spike", 16.0, NAN, 1.0, NAN, "FixedNorm()", lr=0.5))
        sink(ClipRecord(4, 0.0, "ok", 0.5, 0.5, 1.0, 1.0, "FixedNorm()", lr=0.25))
    series = read_series(tmp_path)
    assert series.steps.tolist() == [1, 2, 3, 4]
    assert series.norms.tolist() == pytest.approx([4.0, NAN, 16.0, 0.5], nan_ok=True)
    assert series.norms_after is not None and series.norms_after.tolist() == pytest.approx(
        [1.0, NAN, NAN, 0.5], nan_ok=True
    )
    assert series.thresholds is not None and series.thresholds.tolist() == [1.0] * 4
    assert series.lrs is not None and series.lrs.tolist() == [0.5, 0.5, 0.5, 0.25]
    assert series.clipped is not None and series.clipped.tolist() == [True, False, False, False]
    assert series.skipped is not None and series.skipped.tolist() == [False, True, True, False]
    assert [(event.step, event.status) for event in series.events] == [(2, "skipped"), (3, "skipped")]


def test_a_resumed_run_in_several_files(tmp_path: Path) -> None:
    write(tmp_path, {"grad_norm": dict.fromkeys(range(1, 7), 1.0), "loss": dict.fromkeys(range(1, 7), 1.0)})
    again = {"grad_norm": dict.fromkeys(range(4, 6), 2.0), "loss": dict.fromkeys(range(4, 6), 2.0)}
    write(tmp_path, again, writer={"filename_suffix": ".resumed"})
    series = read_series(tmp_path)
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2, 3, 4, 5], [1.0, 1.0, 1.0, 2.0, 2.0])
    assert series.losses is not None and series.losses.tolist() == [1.0, 1.0, 1.0, 2.0, 2.0]
    assert series.remarks[0].startswith("3 of 8 rows are left out: the run goes back to step 4 (scalar ")


def test_another_tag(tmp_path: Path) -> None:
    write(tmp_path, {"a/x": {1: 1.0}, "b/x": {1: 2.0}, "a/y": {1: 3.0}})
    assert read_series(tmp_path, column="b/x").norms.tolist() == [2.0]
    assert read_series(tmp_path, column="y").norms.tolist() == [3.0]
    assert refusal(tmp_path, "x").startswith("several tags may be the norm: 'a/x', 'b/x'.")
    assert refusal(tmp_path).startswith("no tag looks like a gradient norm; there are: 'a/x', 'b/x', 'a/y'.")


def test_scalars_named_like_what_is_text_elsewhere(tmp_path: Path) -> None:
    names = ("grad_norm", "status", "policy", "run", "group", "step", "time", "epoch")
    write(tmp_path, {name: {1: 1.0, 2: 2.0} for name in names})
    series = read_series(tmp_path)
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2], [1.0, 2.0])
    assert series.policy is None and series.clipped is None


def test_a_folder_with_runs_in_it(tmp_path: Path) -> None:
    write(tmp_path / "logs" / "version_0", {"grad_norm": {1: 1.0}})
    assert read_series(tmp_path).norms.tolist() == [1.0]
    write(tmp_path / "logs" / "version_1", {"grad_norm": {1: 2.0}})
    message = "there are 2 runs in the folder: 'logs/version_0', 'logs/version_1'. Name one of them."
    assert refusal(tmp_path) == message
    assert read_series(tmp_path / "logs" / "version_1").norms.tolist() == [2.0]


def last_record(data: bytes) -> int:
    """Where the last record begins."""
    start = 0
    while (end := start + 16 + struct.unpack_from("<Q", data, start)[0]) < len(data):
        start = end
    return start


@pytest.mark.parametrize(
    "damage",
    [
        lambda data, last: data[:-1],
        lambda data, last: data[: last + 4],
        lambda data, last: data[: last + 13],
        lambda data, last: data[:-6] + b"\xff" + data[-5:],
        lambda data, last: data[:last] + b"\0" * 64,
        lambda data, last: data[:last] + framed(b"\xff\xff\xff"),
    ],
)
def test_what_comes_before_a_torn_record_is_read(tmp_path: Path, damage: Callable[[bytes, int], bytes]) -> None:
    path = write(tmp_path, {"grad_norm": {s: float(s) for s in range(1, 5)}})
    data = path.read_bytes()
    last = last_record(data)
    path.write_bytes(damaged := damage(data, last))
    series = read_series(path)
    assert series.norms.tolist() == [1.0, 2.0, 3.0]
    what = f"{path.name} is torn at byte {last} of {len(damaged)}; what comes after it is left out."
    assert series.remarks == (what,)


def framed(record: bytes) -> bytes:
    """A record of an event file, its checksums right."""
    length = struct.pack("<Q", len(record))
    return b"".join(
        (length, struct.pack("<I", masked_crc32c(length)), record, struct.pack("<I", masked_crc32c(record)))
    )


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "events.out.tfevents.1"
    path.write_bytes(b"not an event file, but long enough for a record or two" * 10)
    assert refusal(path).startswith("it is no event file, or damaged from its beginning.")
    path.write_bytes(b"")
    assert refusal(path).startswith("no tag looks like a gradient norm; there are: none.")


def test_a_file_of_another_name_is_known_by_how_it_begins(tmp_path: Path) -> None:
    path = write(tmp_path, {"grad_norm": {1: 1.0}}).rename(tmp_path / "run")
    assert read_series(path).norms.tolist() == [1.0]


def test_a_negative_norm_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, {"grad_norm": {1: 1.0, 2: -1.0}})
    assert ": a norm must be >= 0, got -1." in refusal(path)


def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, {"grad_norm": {1: 1.0}})
    monkeypatch.setitem(sys.modules, "tensorboard.backend.event_processing.event_file_loader", None)
    assert refusal(path) == "reading event files needs tensorboard: pip install tensorboard"
