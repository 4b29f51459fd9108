"""Lines of one shape, whose numbers are read by their places: the same as line by line."""

import itertools
import math
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.reading.test_printed import KINDS
from gradclip.analysis.reading import read_series
from gradclip.analysis.reading.printed import entry_of
from gradclip.analysis.reading.shapes import told_in
from gradclip.analysis.reading.source import Source

WORDS = (
    *("step", "global_step:", "iter [", "Epoch [", "][", "]", "/100", "%|##| ", " [00:01<", "it/s]", "total steps: "),
    *(
        "grad norm: ",
        "grad_norm=",
        "'grad_norm': ",
        "grad norm (clipped) ",
        "layer1 norm ",
        "layer2 grad norm ",
        "| norm ",
    ),
    *(
        "loss",
        "loss: ",
        "'loss': '",
        "', ",
        "lr ",
        "{'step': ",
        "}",
        '{"step": ',
        '{"grad_norm": [',
        "]",
        "tensor(",
        ")",
    ),
    *(
        " ",
        " ",
        "=",
        ": ",
        ", ",
        " | ",
        "-",
        "+",
        ".",
        "k",
        "%",
        "e",
        "nan",
        "None",
        "2024-03-08 ",
        "12:31:36,",
        "\x1b[32m",
        "x",
    ),
)


def numbers(chance: random.Random) -> str:
    """A number as a program may print it: one kind has the same shape each time, and other digits."""
    size = 10.0 ** chance.randint(-8, 8)
    kinds = (
        lambda: str(chance.randint(0, 10**6)),
        lambda: f"{chance.random() * size:.3f}",
        lambda: f"{chance.random() * size:.2e}",
        lambda: f"{chance.randint(0, 10**7):,}",
        lambda: f"{chance.randint(0, 99):02d}",
        lambda: repr(chance.random() * size),
    )
    return chance.choice(kinds)()


def fields_of(texts: list[str], often: int, patch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    patch.setattr("gradclip.analysis.reading.shapes.OFTEN", often)
    fields = {"norms": "grad norm", "steps": "step", "losses": "loss", "lrs": "lr"}
    rows = told_in(numbered(texts), fields).select("row", "lacks", *fields).rows()
    return [tuple(as_number(x) for x in row) for row in rows]


def numbered(texts: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"row": range(len(texts)), "line": range(len(texts)), "text": texts})


def as_number(x: Any) -> Any:
    try:
        return x if x is None or math.isnan(float(x)) else float(x)
    except ValueError:
        return x


@settings(max_examples=300, deadline=None)
@given(words=st.lists(st.sampled_from([*WORDS, *[None] * 20]), min_size=1, max_size=14), seed=st.integers(0, 999))
def test_any_line(words: list[str | None], seed: int) -> None:
    """Whatever stands between the numbers, and however these are written."""
    chance = random.Random(seed)
    texts = ["".join(numbers(chance) if word is None else word for word in words) for _ in range(40)]
    with pytest.MonkeyPatch.context() as patch:
        assert fields_of(texts, 2, patch) == fields_of(texts, 10**9, patch)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their numbers are found by place: no more lines are looked into than a few of each shape."""
    looked_into: list[str] = []
    monkeypatch.setattr(
        "gradclip.analysis.reading.shapes.entry_of", lambda text: looked_into.append(text) or entry_of(text)
    )
    texts = [part for i in range(1, 300) for part in KINDS[kind](i, 1.5 + i).split("\r") if part]
    source = Source(Path("train.log"), None, None, [], "line", "number")
    source.choose([entry_of(text) for text in texts])
    rows = told_in(numbered(texts), source.fields)
    assert [float(x) for x in rows["norms"]] == [1.5 + i for i in range(1, 300)]
    assert len(looked_into) < 60


def test_a_long_run_is_read_as_a_short_one(tmp_path: Path) -> None:
    """Through files: shapes come and go, and the lines that lack something are counted as they are elsewhere."""
    lines = itertools.chain.from_iterable(
        (
            f"step {i} | loss: 0.5 | grad norm: {i}.25",
            f"grad norm: {i}.5",
            f"step {i} | grad norm: pending" * (i % 50 == 0),
        )
        for i in range(1, 400)
    )
    (tmp_path / "train.log").write_text("".join(f"{line}\n" for line in lines))
    series = read_series(tmp_path / "train.log")
    assert series.norms.tolist() == [i + 0.25 for i in range(1, 400)]
    assert series.losses is not None and set(series.losses.tolist()) == {0.5}
    assert series.remarks == (
        "Lines that name the norm but no number are left out: 7, the first of them line 150.",
        "Lines with a norm but no step are left out: 399, the first of them line 2.",
    )
