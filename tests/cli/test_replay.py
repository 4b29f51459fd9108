"""`gradclip replay`: what policies would have done to a recorded run."""

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from cli.recordings import lognormal, write
from gradclip.analysis import replay
from gradclip.cli import main
from gradclip.cli.replay import command
from gradclip.policies import AdaGC, AutoClip, FixedNorm, MedianClip, Policy, SpikeSkip, ZClip

INF, NAN = math.inf, math.nan


def recorded() -> list[float]:
    """Norms with a burst and a step that is not finite."""
    norms = lognormal(500)
    norms[300:306] = [60.0] * 6
    norms[400] = NAN
    return norms


def played(run: Path, capsys: pytest.CaptureFixture[str], *policies: str, more: tuple[str, ...] = ()) -> dict[str, Any]:
    words = [word for policy in policies for word in ("--policy", policy)]
    assert main(["replay", str(run), *words, "--json", *more]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


POLICIES: list[tuple[str, Policy]] = [
    ("fixed:1.5", FixedNorm(1.5)),
    ("zclip", ZClip(INF)),
    ("zclip:max_norm=3,z=2", ZClip(3.0, z_threshold=2.0)),
    ("autoclip:90", AutoClip(INF, percentile=90.0)),
    ("median:max_norm=20", MedianClip(20.0)),
    ("spike-skip", SpikeSkip(INF)),
]


@pytest.mark.parametrize(("spec", "policy"), POLICIES)
def test_the_numbers_are_those_of_the_replay(
    spec: str, policy: Policy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    norms = recorded()
    found = played(write(tmp_path / "run.jsonl", norms), capsys, spec)
    assert (found["steps"], found["largest"]) == (500, 60.0)
    (row,) = found["policies"]
    expected = replay(policy, norms)
    assert (row["name"], row["policy"], row["problem"], row["note"]) == (spec, repr(policy), "", "")
    assert row["share_clipped"] == expected.share_clipped
    assert row["share_skipped"] == expected.share_skipped >= 1 / 500
    assert row["largest_after"] == expected.largest_after
    assert row["longest_held"] == expected.longest_held
    thresholds = sorted(x for x in expected.thresholds.tolist() if math.isfinite(x))
    ends = (row["threshold_min"], row["threshold_max"])
    assert ends == ((thresholds[0], thresholds[-1]) if thresholds else (None, None))
    assert row["threshold_median"] in (thresholds or [None])


def test_a_locked_policy_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Norms that triple for good: as published, ZClip lets no step through any more."""
    norms = [*lognormal(300), *(5.0 * x for x in lognormal(700, seed=1))]
    found = played(write(tmp_path / "run.jsonl", norms), capsys, "zclip", "zclip-published")
    ours, published = found["policies"]
    assert published["longest_held"] >= 600
    assert ours["longest_held"] <= 60


def test_what_the_recording_does_not_hold_is_said_in_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write(tmp_path / "run.jsonl", recorded())
    rows = played(run, capsys, "agc", "block-rms", "fixed:1,norm_type=inf", "adagc", "value", "fixed")["policies"]
    problems = {row["name"]: row["problem"] for row in rows}
    assert "needs those of units and of weights" in problems["agc"]
    assert "needs the numbers of elements" in problems["block-rms"]
    assert "needs order inf" in problems["fixed:1,norm_type=inf"]
    assert rows[0]["share_clipped"] is None
    assert (
        rows[3]["note"]
        == "norms of parameters are not recorded of all steps: it saw one parameter, with the total norm"
    )
    assert rows[3]["share_clipped"] == replay(AdaGC(INF), recorded()).share_clipped
    assert rows[4]["note"] == "it limits elements, which norms do not show"
    assert (rows[4]["share_clipped"], rows[4]["largest_after"], rows[4]["longest_held"]) == (None, None, None)
    assert (problems["fixed"], rows[5]["note"]) == ("", "")

    assert main(["replay", str(run), "--policy", "agc", "--policy", "adagc"]) == 0
    printed = capsys.readouterr().out
    assert "- agc cannot be replayed: `replay(policy=...)` must decide from norms of total or parameters" in printed
    assert "- adagc: norms of parameters are not recorded of all steps" in printed


def test_norms_of_parameters_are_used_where_they_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    norms = lognormal(300)
    each = {step: {"a": 0.6 * norm, "b": 0.8 * norm} for step, norm in enumerate(norms, start=1)}
    run = write(tmp_path / "run.jsonl", norms, each=each)
    (row,) = played(run, capsys, "adagc")["policies"]
    expected = replay(AdaGC(INF), list(each.values()))
    assert row["note"] == ""
    assert row["share_clipped"] == expected.share_clipped
    assert row["largest_after"] == pytest.approx(expected.largest_after, rel=1e-12)
    assert row["threshold_median"] is None
    assert main(["replay", str(run), "--policy", "adagc"]) == 0
    assert "one a parameter" in capsys.readouterr().out


def test_losses_reach_the_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = [2.0 + 0.1 * math.sin(step) for step in range(300)]
    losses[200] = 50.0
    quiet = write(tmp_path / "quiet.jsonl", lognormal(300))
    run = write(tmp_path / "run.jsonl", lognormal(300), losses=losses)
    assert played(quiet, capsys, "spike-skip")["policies"][0]["share_skipped"] == 0.0
    assert played(run, capsys, "spike-skip")["policies"][0]["share_skipped"] == 1 / 300


def test_prints_a_row_for_each_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "run.jsonl", recorded())
    assert main(["replay", str(run)]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert printed.err == ""
    assert lines[0] == f"500 steps of {run}. The largest norm is 60."
    rows = {line.split()[0]: line.split() for line in lines if line.split()[:1] and line.split()[0] in command.DEFAULTS}
    assert list(rows) == list(command.DEFAULTS)
    expected = replay(FixedNorm(1.0), recorded())
    assert rows["fixed"][1:3] == [f"{100 * expected.share_clipped:.0f}", "%"]
    assert rows["fixed"][3:6] == ["0.2", "%", "1"]
    assert rows["fixed"][6:10] == [str(expected.longest_held), "1", "1", "1"]
    assert len(rows["fixed"][10]) == 40
    assert not {"\x1b", "\r"} & set(printed.out)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_loses_no_policy(
    width: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main(["replay", str(write(tmp_path / "run.jsonl", recorded())), "--policy", "zclip:max_norm=1.25"]) == 0
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, printed.splitlines())) <= width
    assert "zclip:max_no" in printed and " 1.25 " in printed
    assert ("over" in printed) == (width == 120)


def test_writes_the_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    norms = recorded()
    run, out = write(tmp_path / "run.jsonl", norms), tmp_path / "steps.csv"
    played(run, capsys, "fixed:1.5", "agc", "spike-skip", more=("--csv", str(out)))
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 501))
    assert not any(name.startswith("agc") for name in rows[0])
    for spec, policy in (("fixed:1.5", FixedNorm(1.5)), ("spike-skip", SpikeSkip(INF))):
        expected = replay(policy, norms)
        for row, after, threshold, clipped, skipped in zip(
            rows,
            expected.norms_after.tolist(),
            expected.thresholds.tolist(),
            expected.clipped.tolist(),
            expected.skipped.tolist(),
            strict=True,
        ):
            assert row[f"{spec} norm after"] == ("" if math.isnan(after) else repr(after))
            assert row[f"{spec} threshold"] == (repr(threshold) if math.isfinite(threshold) else "")
            assert row[f"{spec} status"] == ("skipped" if skipped else "clipped" if clipped else "ok")
    assert [row["norm"] for row in rows] == ["" if math.isnan(x) else repr(x) for x in norms]


def test_overwrites_nothing_unless_it_is_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = write(tmp_path / "run.jsonl", recorded()), tmp_path / "steps.csv"
    out.write_text("precious", "utf-8")
    words = ["replay", str(run), "--policy", "fixed", "--csv", str(out)]
    assert main(words) == 2
    assert capsys.readouterr().err == f"gradclip: --csv {out} exists. Pass --force to overwrite it.\n"
    assert out.read_text("utf-8") == "precious"
    assert main([*words, "--force"]) == 0
    assert out.read_text("utf-8").startswith("step,norm,fixed threshold,")


def test_a_long_run_shows_how_far_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "LONG", 100)
    monkeypatch.setenv("FORCE_COLOR", "1")
    run = write(tmp_path / "run.jsonl", recorded())
    found = played(run, capsys, "zclip", "fixed")
    assert len(found["policies"]) == 2
    assert main(["replay", str(run), "--policy", "zclip"]) == 0
    assert "zclip" in capsys.readouterr().err


@pytest.mark.parametrize("run", [[], ["no-file"]], ids=str)
def test_help_explains_the_policies(capsys: pytest.CaptureFixture[str], run: list[str]) -> None:
    """It needs no run, as it needs none for `demo` and `run`."""
    assert main(["replay", *run, "--policy", "help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["fixed", "bound", "the", "total", "norm", "by", "max_norm"]
    assert "autoclip:PERCENTILE, or by name: max_norm=inf, percentile=10.0" in " ".join(lines)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policy", "clip"], "--policy clip must be one of fixed, value, block-rms"),
        (["--policy", "fixed:-1"], "--policy fixed:-1 does not go: `FixedNorm(max_norm=...)` must be >= 0, got -1.0."),
        (["--column", "nothing"], "nothing"),
        (["--csv", "missing/steps.csv"], "--csv missing/steps.csv: there is no folder missing. Make it first."),
        (["--csv", ".", "--force"], "--csv . is a folder. Name a file."),
        (["--csv", "run.jsonl", "--force"], "--csv run.jsonl is the recording itself. Name another file."),
    ],
)
def test_wrong_words_are_one_line(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["replay", str(write(tmp_path / "run.jsonl", recorded())), *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("gradclip: ") and words in printed.err
    assert printed.err.count("\n") == 1


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = write(tmp_path / "run.jsonl", recorded()), tmp_path / ("n" * 300)
    assert main(["replay", str(run), "--policy", "fixed", "--csv", str(out)]) == 2
    assert "File name too long. Name a file that can be written." in capsys.readouterr().err


def test_a_file_that_is_missing_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path / "none.jsonl")]) == 2
    assert "there is no such file" in capsys.readouterr().err


def test_a_run_of_which_no_norm_is_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write(tmp_path / "run.jsonl", [NAN, NAN])
    found = played(run, capsys, "zclip", "fixed")
    assert found["largest"] is None
    assert [row["share_skipped"] for row in found["policies"]] == [1.0, 1.0]
    assert main(["replay", str(run)]) == 0
    assert "No norm is finite." in capsys.readouterr().out
