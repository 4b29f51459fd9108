"""Text as trainers print it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.reading.files import refusal
from gradclip.analysis.reading import read_series
from gradclip.analysis.reading.printed import entry_of

Line = Callable[[int, float], str]

KINDS: dict[str, Line] = {
    "Trainer, numbers": lambda i, n: str({"loss": 0.5, "grad_norm": n, "learning_rate": 1e-05, "epoch": i / 100}),
    "Trainer, text": lambda i, n: str({"loss": "0.5", "grad_norm": f"{n}", "learning_rate": "1e-05"}),
    "Trainer, after a bar": lambda i, n: f"\r  1%|  | {i}/99 [00:01<00:02]\r" + str({"loss": 0.5, "grad_norm": n}),
    "fairseq": lambda i, n: (
        "2021-03-08 12:31:36 | INFO | train_inner | "
        + json.dumps({"epoch": 1, "loss": "0.5", "num_updates": f"{i}", "lr": "1e-05", "gnorm": f"{n}"})
    ),
    "Megatron": lambda i, n: (
        f" [2024-01-01 12:00:00] iteration {i:8d}/  250000 | consumed samples: {8 * i:12d} | learning "
        f"rate: 1.0E-05 | lm loss: 5.0E-01 | loss scale: 1.0 | grad norm: {n} | number of nan iterations:   0 |"
    ),
    "nanochat": lambda i, n: f"step {i:05d}/20000 (0.05%) | loss: 0.500000 | grad_norm: {n} | lrm: 1.00 | dt: 340.10ms",
    "build-nanogpt": lambda i, n: (
        f"step {i:5d} | loss: 0.500000 | lr 1.0000e-05 | norm: {n} | dt: 1.25ms | tok/sec: 9.5"
    ),
    "NeMo": lambda i, n: f"2025-01-01 INFO step {i} | epoch 0 | loss 0.5 | grad_norm: {n} | lr: 1.0e-05 | mem 1.2 GiB",
    "mmcv": lambda i, n: (
        f"2021-01-01 12:00:00,1 - mmcv - INFO - Iter [{i}/160000]\tlr: 1.000e-05, eta: 1 day, 0:00:01, "
        f"time: 0.510, data_time: 0.01, memory: 100, loss: 0.5000, grad_norm: {n}"
    ),
    "equals signs, coloured": lambda i, n: f"\x1b[32mINFO\x1b[0m step={i} loss=0.5 grad_norm={n} lr=1e-05",
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(tmp_path: Path, kind: str) -> None:
    """Whatever stands before the first step and between; a norm may be NaN."""
    norms = [1.5, 2.25, float("nan"), 1e-05, 12345.5]
    text = "[W] some word of the launcher: it has 2 GPUs\n\n" + "".join(
        f"{KINDS[kind](i, n)}\nsaving the checkpoint: {i}\n" for i, n in enumerate(norms, 1)
    )
    (tmp_path / "train.log").write_text(text)
    series = read_series(tmp_path / "train.log")
    assert series.norms.tolist() == pytest.approx(norms, nan_ok=True)
    assert series.steps.tolist() == [1, 2, 3, 4, 5]
    if kind != "NeMo":
        assert series.losses is not None and series.losses.tolist() == [0.5] * 5
    assert not any("left out" in remark for remark in series.remarks)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_with_nothing_between(tmp_path: Path, kind: str) -> None:
    """Lines below each other, with names and numbers in both, are no table."""
    norms = [1.5, 2.25, 12345.5]
    (tmp_path / "train.log").write_text("".join(f"{KINDS[kind](i, n)}\n" for i, n in enumerate(norms, 1)))
    assert read_series(tmp_path / "train.log").norms.tolist() == norms


def test_epochs_of_mmcv(tmp_path: Path) -> None:
    lines = [f"mmcv - INFO - Epoch [{e}][{i}/200]\tlr: 1.0e-02, grad_norm: {e + i}" for e in (1, 2) for i in (50, 100)]
    (tmp_path / "train.log").write_text("\n".join(lines) + "\n")
    series = read_series(tmp_path / "train.log")
    assert (series.steps.tolist(), series.norms.tolist()) == ([50, 100, 150, 200], [51.0, 101.0, 52.0, 102.0])


def test_counters_on_other_lines_are_not_missed(tmp_path: Path) -> None:
    lines = [f"evaluating, step {i}\n" + str({"loss": 0.5, "grad_norm": f"{i}.5"}) for i in (1, 2, 3)]
    (tmp_path / "train.log").write_text("\n".join(lines) + "\n")
    series = read_series(tmp_path / "train.log")
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2, 3], [1.5, 2.5, 3.5])
    assert series.remarks == ("There are no numbers of steps: the rows are counted from 1.",)


def test_a_long_prologue(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text("loading weights, shard 1 of 9\n" * 3000 + "step: 1 grad_norm: 2.5\n")
    assert read_series(tmp_path / "train.log").norms.tolist() == [2.5]


def test_the_first_norm_on_a_last_line_without_an_end(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text("loading, shard: 1\nstep: 1 grad_norm: 2.5")
    assert read_series(tmp_path / "train.log").norms.tolist() == [2.5]


def test_another_name(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text("step: 1 | gradient size: 2.5 | grad_norm: 1.0\n")
    assert read_series(tmp_path / "train.log", column="gradient size").norms.tolist() == [2.5]
    assert "there is no number 'size of it'; there are: " in refusal(tmp_path / "train.log", column="size of it")


OTHERS = [
    "params norm",
    "weight norm",
    "max norm",
    "layer norm",
    "clipped grad norm",
    "post clip grad norm",
    "update norm",
]


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("sign", [": ", "=", " "])
def test_norms_of_others_are_not_taken(tmp_path: Path, name: str, sign: str) -> None:
    """As Megatron prints that of the parameters where it has none of the gradients."""
    path = tmp_path / "train.log"
    path.write_text("".join(f"step: {i} | {name}{sign}812.5 | loss: 0.5\n" for i in (1, 2)))
    assert "looks like a gradient norm" in refusal(path)
    path.write_text("".join(f"step: {i} | {name}{sign}812.5 | train norm: {i}.5\n" for i in (1, 2)))
    assert read_series(path).norms.tolist() == [1.5, 2.5]


def test_norms_of_two_things_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text("".join(f"step: {i} | actor grad norm: {i}.5 | critic grad norm: 9.5\n" for i in (1, 2)))
    assert "there are: 'step', 'actor grad norm', 'critic grad norm'" in refusal(path)
    assert read_series(path, column="actor grad norm").norms.tolist() == [1.5, 2.5]


@pytest.mark.parametrize("above", ["total steps: 1000 | ", "max steps = 1000, ", "warmup steps 10; ", "INFO - "])
@pytest.mark.parametrize("step", ["step: {}", "iter {}", "epoch 1 step 5 | global_step: {}"])
def test_how_many_steps_there_are_is_no_step(tmp_path: Path, above: str, step: str) -> None:
    """And the step of the run is that, whatever is counted beside it."""
    path = tmp_path / "train.log"
    path.write_text("".join(f"{above}norm: {i}.5 | {step.format(i)}\n" for i in (3, 4)))
    series = read_series(path)
    assert (series.steps.tolist(), series.norms.tolist(), series.remarks) == ([3, 4], [3.5, 4.5], ())


def test_names_are_short_and_begin_where_a_word_does() -> None:
    """So that text of any kind is looked through in a time that grows with its length, not with its square."""
    assert entry_of("x" * 1_000_000) == entry_of("{" * 1_000_000) == entry_of("%|" * 500_000) == {}
    assert entry_of("after all of this prose, which may be as long as it likes, saved loss: 0.5")["loss"] == "0.5"
