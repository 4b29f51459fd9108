"""Whatever is in a file, the outcome is a run or one line of what is wrong."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from analysis.reading.files import record
from conftest import skip_without
from gradclip.analysis.reading import ReadError, read_series
from gradclip.analysis.series import Series

NAMES = ["run.jsonl", "run.csv", "trainer_state.json", "run", "events.out.tfevents.1"]

KEYS = st.sampled_from(
    ["step", "grad_norm", "total_norm", "status", "policy", "norms", "nonfinite", "loss", "time", "x"]
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["nan", "inf", "-", "ok", "clipped", "skipped_nonfinite", "1e400", "1.5"])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=3)
)
LIKELY = st.fixed_dictionaries(
    {"step": st.integers(0, 9) | VALUES, "grad_norm": st.floats(0, 9) | VALUES},
    optional={
        "status": st.sampled_from(["ok", "clipped", "skipped_spike"]) | VALUES,
        "policy": VALUES,
        "norms": VALUES,
        "nonfinite": VALUES,
    },
)


def outcome(path: Path) -> Series | str:
    """The run, or what is said instead."""
    try:
        return read_series(path)
    except ReadError as error:
        return str(error)


def check(folder: Path, name: str, content: bytes) -> None:
    """Read a file: a run has what a run has, and a refusal is one line that begins with the file."""
    path = folder / name
    path.write_bytes(content)
    series = outcome(path)
    if isinstance(series, str):
        assert series.startswith(str(path))
        assert series.isprintable()
        return
    assert len(series) > 0
    assert series.steps.dtype == torch.int64 and (series.steps.diff() > 0).all()
    assert series.norms.dtype == torch.float64 and not (series.norms < 0).any()
    for each in ("norms", "norms_after", "thresholds", "clipped", "skipped", "losses", "lrs", "times"):
        column = getattr(series, each)
        assert column is None or column.shape == series.steps.shape
    steps = series.steps.tolist()
    assert all(step in steps for step, _ in series.each)
    bad = ~series.norms.isfinite() if series.skipped is None else ~series.norms.isfinite() | series.skipped
    assert [event.step for event in series.events] == series.steps[bad].tolist()
    repr(series).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@given(st.sampled_from(NAMES), st.binary(max_size=300))
@example("run", b"\x1f")
@example("run.csv", b'"')
@example("run.csv", b"norm\r1\r2")
@example("run.jsonl", b'{"norm": 1}\n{"norm"')
def test_any_bytes(folder: Path, name: str, content: bytes) -> None:
    check(folder, name, content)


@given(
    st.lists(LIKELY | st.dictionaries(KEYS, VALUES, max_size=5) | VALUES, max_size=12),
    st.sampled_from(["\n", "\r\n", "", "\n\n"]),
)
def test_any_json_on_each_line(folder: Path, lines: list[Any], end: str) -> None:
    check(folder, "run.jsonl", end.join(map(json.dumps, lines)).encode())


@given(st.lists(LIKELY | VALUES, max_size=12) | VALUES)
def test_any_history(folder: Path, history: Any) -> None:
    check(folder, "trainer_state.json", json.dumps({"log_history": history}).encode())


CELLS = (
    st.floats().map(str)
    | st.integers().map(str)
    | st.sampled_from(['"', "", "-", "nan", '"a\nb"', "x", "ok"])
    | st.text(max_size=4)
)


@given(
    st.lists(KEYS | st.text(max_size=4), min_size=1, max_size=4),
    st.lists(st.lists(CELLS, max_size=4), max_size=12),
    st.sampled_from(",;\t|"),
)
def test_any_table(folder: Path, names: list[str], rows: list[list[str]], separator: str) -> None:
    text = "\n".join(separator.join(row) for row in [["step", "grad_norm", *names], *rows])
    check(folder, "run.csv", text.encode("utf-8", "surrogatepass"))


def originals(folder: Path) -> dict[str, bytes]:
    """A good file of each kind."""
    lines = [record(s, 0.5 + s / 8, "clipped" if s % 3 else "ok") for s in range(1, 40)]
    lines[7] = record(8, None, "skipped_nonfinite", nonfinite={"a.weight": [1, 2]})
    lines[20] = record(21, norms={"a.weight": 1.5, "a.bias": 0.25})
    header = ["step", "status", "total_norm", "loss", "policy"]
    cells = [[json.dumps(line[name]) for name in header] for line in lines]
    good = {
        "run.jsonl": "".join(json.dumps(line) + "\n" for line in lines).encode(),
        "run.csv": "\n".join(map(",".join, [header, *cells])).encode(),
        "trainer_state.json": json.dumps({"log_history": lines}, indent=2).encode(),
    }
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return good
    with SummaryWriter(str(folder)) as writer:
        for step in range(1, 40):
            writer.add_scalar("grad_norm", 0.5 * step, step, new_style=step % 2 == 0)
    return good | {"events.out.tfevents.1": next(folder.glob("events*")).read_bytes()}


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Cut, copy, overwrite, insert or drop some of a file."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at, length = chance.randrange(len(data) + 1), chance.choice([1, 1, 2, 8, 100])
        noise = chance.choice(
            [chance.randbytes(length), b"\n", b'"', b"-", b"9" * length, b"{", b"}", b",", b"NaN", b"\0", b"e"]
        )
        match chance.randrange(5):
            case 0:
                del data[at:]
            case 1:
                data[at:at] = data[max(0, at - 300) : at]
            case 2:
                data[at : at + len(noise)] = noise
            case 3:
                data[at:at] = noise
            case _:
                del data[at : at + length]
    return bytes(data)


@pytest.mark.parametrize("name", ["run.jsonl", "run.csv", "trainer_state.json", "events.out.tfevents.1"])
def test_damaged_files(tmp_path: Path, name: str) -> None:
    good = originals(tmp_path)
    if name not in good:
        skip_without("tensorboard", "it is not installed")
    check(tmp_path, name, good[name])
    chance = random.Random(0)
    for _ in range(150):
        check(tmp_path, name, damaged(good[name], chance))


def test_the_originals_are_good(tmp_path: Path) -> None:
    for name, content in originals(tmp_path / "made").items():
        (tmp_path / name).write_bytes(content)
        series = read_series(tmp_path / name)
        assert len(series) == 39
        assert math.isfinite(float(series.norms[-1]))
