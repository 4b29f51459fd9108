"""`gradclip demo` without a policy: what it trains, prints, draws and saves, and how it refuses."""

import math
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

import processes
from cli.demo.reading import CLIPPED, UNCLIPPED, last_lines, refused, rows_of, shows
from gradclip.analysis.amounts import percent
from gradclip.cli import main
from gradclip.cli.demo.picture import COLORS
from gradclip.cli.demo.text import load
from gradclip.cli.demo.training import Run
from gradclip.cli.words import amount
from gradclip.policies import FixedNorm


def test_trains_draws_and_saves(text: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(2)
    code = main(["demo", "--text", str(text), "--steps", "40", "--out", str(out)])
    printed = capsys.readouterr()
    assert code == 0
    assert printed.err == ""
    lines = printed.out.splitlines()
    corpus = load(text)
    assert lines[0] == f"Training on {text}: {corpus.characters:,} characters, 11 symbols."
    assert lines[-2:] == last_lines(out, "with-clipping.jsonl", runs=2)
    assert f"{UNCLIPPED}: step 10/40" in printed.out
    assert not {"\x1b", "\r"} & set(printed.out)
    assert torch.get_num_threads() == 2

    rows = rows_of(out)
    assert [(row["run"], int(row["step"])) for row in rows] == [
        (run, step) for run in (UNCLIPPED, CLIPPED) for step in range(1, 41)
    ]
    for row in rows:
        assert row["skipped"] == "0"
        assert int(row["clipped"]) == (row["run"] == CLIPPED and float(row["gradient_norm"]) > 1.0)
    clipped = [row for row in rows if row["run"] == CLIPPED]
    mean = np.mean([float(row["bits_per_character"]) for row in clipped])
    share = np.mean([int(row["clipped"]) for row in clipped])
    cells = next(line.split() for line in lines if line.startswith(f" {CLIPPED} "))
    assert (cells[2], " ".join(cells[5:])) == (amount(float(mean)), f"{percent(float(share))} 0 of 40")
    assert all(shows(out / "demo.png", color) for color in COLORS)


@pytest.mark.usefixtures("numbers_alone")
def test_the_same_seed_gives_the_same_numbers(text: Path, tmp_path: Path) -> None:
    runs = {}
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        assert main(["demo", "--text", str(text), "--steps", "8", "--seed", seed, "--out", str(tmp_path / name)]) == 0
        runs[name] = rows_of(tmp_path / name)
    assert runs["a"] == runs["b"]
    assert runs["a"] != runs["c"]


@pytest.mark.usefixtures("numbers_alone")
def test_options_reach_the_training(text: Path, out: Path) -> None:
    arguments = ["--text", str(text), "--steps", "5", "--max-norm", "0.01", "--lr", "0.25", "--out", str(out)]
    assert main(["demo", *arguments]) == 0
    rows = rows_of(out)
    run = Run("", FixedNorm(0.01), load(text), seed=0)
    assert len(list(run.train(steps=5, lr=0.25))) == 5
    assert [float(row["bits_per_character"]) for row in rows[5:]] == run.bits
    assert [row["clipped"] for row in rows] == ["0"] * 5 + ["1"] * 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-norm", "-1"], "'--max-norm': must be a positive number, at most 1e+38, got -1.0."),
        (["--max-norm", "0"], "'--max-norm': must be a positive number, at most 1e+38, got 0.0."),
        (["--max-norm", "nan"], "'--max-norm': must be a positive number, at most 1e+38, got nan."),
        (["--max-norm", "inf"], "'--max-norm': must be a positive number, at most 1e+38, got inf."),
        (["--lr", "-2"], "'--lr': must be a positive number, at most 1e+38, got -2.0."),
        (["--lr", "1e39"], "'--lr': must be a positive number, at most 1e+38, got 1e+39."),
        (["--lr", "fast"], "'--lr'"),
        (["--steps", "0"], "'--steps': must be 1 to 1,000,000,000, got 0."),
        (["--steps", "9" * 20], "'--steps': must be 1 to 1,000,000,000, got 99999999999999999999."),
        (["--steps", "1.5"], "'--steps'"),
        (["--seed", "-1"], "'--seed': must be from 0 to 9223372036854775807, got -1."),
        (["--seed", str(2**63)], "'--seed': must be from 0"),
        (["--colour"], "--colour"),
        (["extra"], "extra"),
        (["--out"], "--out"),
    ],
)
def test_refuses_wrong_values(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert words in refused(capsys, *arguments)


def test_refuses_a_folder_that_cannot_be_made(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "--text", str(text), "--out", str(text))
    assert message == f"gradclip: --out {text} cannot be made a folder (File exists). Name another.\n"
    assert f"--out {text}/below" in refused(capsys, "--text", str(text), "--out", f"{text}/below")


def test_refuses_an_unknown_command_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demos"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("gradclip: No such command 'demos'.")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_lists_the_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "demo" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_says_what_to_install(
    package: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == (
        'gradclip: the commands need typer and rich: pip install ".[cli]" in a clone of gradclip\n'
    )


def test_goes_without_a_picture_where_matplotlib_is_missing(
    text: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["demo", "--text", str(text), "--steps", "2", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == 'No picture without matplotlib: pip install ".[report]" in a clone of gradclip'
    assert lines[-2:] == last_lines(out, "with-clipping.jsonl", runs=2, files="steps.csv, report.html")
    assert len(rows_of(out)) == 4
    assert not (out / "demo.png").exists()


def test_copes_with_runs_that_break_down(text: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--text", str(text), "--lr", "1e38", "--steps", "40", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    steps = [row for row in rows_of(out) if row["run"] == UNCLIPPED]
    assert f"The run {UNCLIPPED} ended at step {len(steps)}: it was no longer finite." in printed
    assert len(steps) < 40
    assert not math.isfinite(float(steps[-1]["bits_per_character"]))
    assert "not finite" in printed
    steps = [row for row in rows_of(out) if row["run"] == CLIPPED]
    assert f"The run {CLIPPED} ended at step {len(steps)}: more than 25 steps in a row were skipped." in printed
    assert [row["skipped"] for row in steps[-25:]] == ["1"] * 25
    assert len(steps) < 40
    assert matplotlib.image.imread(out / "demo.png").std() > 0.05


def test_the_command_line_imports_what_is_slow_only_when_used() -> None:
    program = """
import sys, gradclip.cli.app
print(sorted({"gradclip.cli.demo.display", "gradclip.cli.demo.picture", "matplotlib"} & set(sys.modules)))
"""
    assert processes.printed(program) == "[]\n"
