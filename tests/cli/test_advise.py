"""`gradclip advise`: the verdict first, a table, the code to write, and how it refuses."""

import json
import math
import re
import sys
from pathlib import Path

import pytest

from cli.recordings import lognormal, write
from gradclip.analysis import advise
from gradclip.analysis.amounts import percent
from gradclip.cli import main
from processes import GRADCLIP, run
from processes import printed as printed_by


def test_says_the_verdict_first_and_what_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    norms = lognormal(1000)
    run = write(tmp_path / "run.jsonl", norms)
    assert main(["advise", str(run)]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    advice = advise(norms)
    assert printed.err == ""
    assert lines[0] == advice.headline
    assert lines[0].startswith(f"Clip at {advice.max_norm:g}.")
    assert lines[1] == (
        f"In code: FixedNorm(max_norm={advice.max_norm:g}), or "
        f"clip_grad_norm_(parameters, max_norm={advice.max_norm:g})"
    )
    for each in advice.suggestions:
        row = next(line for line in lines if line.split()[:1] == [each.name])
        assert row.split()[1:5] == [f"{each.max_norm:.3g}", f"{each.low:.3g}", "to", f"{each.high:.3g}"]
    assert f"Judged: 950 of 1,000 steps of {run}. Left out: 50 of warm-up, 0 not finite, 0 of norm 0." in lines[-1]
    assert not {"\x1b", "\r"} & set(printed.out)


def test_json_is_strict_and_holds_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    norms = lognormal(1000)
    norms[700] = math.nan
    run = write(tmp_path / "run.jsonl", norms, bound=0.5)
    assert main(["advise", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["verdict"] == "lower the learning rate"
    assert found["recorded_bound"] == 0.5
    assert found["nonfinite"] == 1
    assert [each["name"] for each in found["suggestions"]] == ["tight", "balanced", "conservative"]
    assert found["suggestions"] == advise(norms).to_dict()["suggestions"]


@pytest.mark.parametrize(
    ("norms", "words"),
    [
        (lognormal(25), "No advice: 17 usable steps, where 20 are needed. Record more."),
        ([1.0 / (1.0 - i / 400.0) ** 2 for i in range(400)], "No advice: the recording looks exploded"),
        ([min(1.0, x) for x in lognormal(400)], "of the norms are the same and the largest, 1."),
    ],
)
def test_refusing_advice_is_an_answer(
    norms: list[float], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path / "run.jsonl", norms)
    assert main(["advise", str(run)]) == 0
    printed = capsys.readouterr().out
    assert words in printed.splitlines()[0]
    assert "In code" not in printed and "max_norm" not in printed


def test_options_reach_the_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run.csv"
    norms = lognormal(500)
    run.write_text("\n".join(["step,size", *(f"{i},{x!r}" for i, x in enumerate(norms, start=1))]) + "\n", "utf-8")
    assert main(["advise", str(run), "--column", "size", "--warmup", "123", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["warmup"], found["usable"]) == (123, 377)
    assert found["suggestions"] == advise(norms, warmup=123).to_dict()["suggestions"]


@pytest.mark.parametrize("name", ["a\x1b[31mb", "two\nlines"])
def test_names_from_a_file_do_not_reach_the_terminal(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path / "run.jsonl", lognormal(300), each={step: {name: 1.0} for step in range(1, 301)})
    assert main(["advise", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "has 100 % of the squared norm" in printed
    assert "\x1b" not in printed and "two\n" not in printed


def test_a_terminal_that_is_narrow_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("FORCE_COLOR", "1")  # it is a terminal
    norms = lognormal(1000)
    assert main(["advise", str(write(tmp_path / "run.jsonl", norms))]) == 0
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, printed.splitlines())) <= 60
    for each in advise(norms).suggestions:
        row = next(line for line in printed.splitlines() if each.name in line)
        assert f"{each.max_norm:.3g}" in row and percent(each.share_removed) in row


def test_the_optimizer_of_a_run_may_be_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Most steps are above the bound: a lower learning rate is a remedy under SGD, and none under Adam."""
    run = write(tmp_path / "run.jsonl", lognormal(1000), bound=0.5)
    for optimizer, words in (("SGD", "Lower the learning rate instead"), ("AdamW", "Clip at ")):
        assert main(["advise", str(run), "--optimizer", optimizer]) == 0
        assert capsys.readouterr().out.startswith(words)


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        (None, [], "there is no such file"),
        ("", [], "run.jsonl"),
        ('{"step": 1, "total_norm": -1.0}\n', [], "run.jsonl"),
        ('{"step": 1, "total_norm": 1.0}\n', ["--column", "nothing"], "nothing"),
        ('{"step": 1, "total_norm": 1.0}\n', ["--warmup", "-3"], "--warmup"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    text: str | None, arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run.jsonl"
    if text is not None:
        run.write_text(text, "utf-8")
    assert main(["advise", str(run), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("gradclip: ") and words in printed.err
    assert printed.err.count("\n") == 1


def test_help_needs_neither_torch_nor_rich_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing slow is imported for it."""
    before = set(sys.modules)
    assert main(["advise", "--help"]) == 0
    assert "Recommend a threshold from a recorded run" in capsys.readouterr().out
    assert not {name for name in set(sys.modules) - before if name.startswith(("polars", "matplotlib", "plotly"))}


PIPED = """
import os, sys

out, into = os.pipe()
os.write(into, {!r}.encode())
os.close(into)
os.dup2(out, 0)
sys.stdin = open(0)
"""


def test_standard_input(tmp_path: Path) -> None:
    """What a program prints, by a pipe; a refusal names it."""
    text = "".join(f"step {i} | loss: 0.5 | grad_norm: {1 + i % 7}\n" for i in range(1, 201))
    (tmp_path / "train.log").write_text(text)
    piped = printed_by(PIPED.format(text) + GRADCLIP, "advise", "-")
    named = printed_by(GRADCLIP, "advise", tmp_path / "train.log")
    assert piped.replace("standard input", str(tmp_path / "train.log")) == named
    refused = run(PIPED.format("no norm\n") + GRADCLIP, "advise", "-")
    assert refused.returncode == 2
    assert "standard input: no column looks like a gradient norm" in refused.stderr


@pytest.mark.parametrize("bound", ["0", "-1", "nan"])
def test_a_bound_that_none_is(bound: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "run.jsonl", lognormal(200))
    assert main(["advise", str(run), f"--max-norm={bound}"]) == 2
    assert f"--max-norm must be > 0, got {bound}. Leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["advise", "replay"])
def test_one_of_several_runs_in_a_table(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{step},{norm},{name}\n" for name in ("a", "b") for step, norm in enumerate(lognormal(200), 1)]
    (tmp_path / "runs.csv").write_text("step,grad_norm,run\n" + "".join(rows))
    assert main([command, str(tmp_path / "runs.csv")]) == 2
    assert (
        "the rows are of 2 runs: 'a', 'b'. Name one with run= (`gradclip advise --run NAME`)" in capsys.readouterr().err
    )
    assert main([command, str(tmp_path / "runs.csv"), "--run", "b", "--json"]) == 0
    assert '"steps": 200' in capsys.readouterr().out


def test_what_is_left_out_is_said_alike(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    norms = lognormal(300)
    steps = [*range(1, 201), *range(151, 251)]
    rows = [f"{step},{norm}\n" for step, norm in zip(steps, norms, strict=True)]
    (tmp_path / "run.csv").write_text("step,grad_norm\n" + "".join(rows))
    left_out = (
        "50 of 300 rows are left out: the run goes back to step 151 (line 202), and later rows count from there on."
    )
    for command in ("advise", "replay"):
        assert main([command, str(tmp_path / "run.csv")]) == 0
        assert left_out in capsys.readouterr().out
        assert main([command, str(tmp_path / "run.csv"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["remarks"] == [left_out]
