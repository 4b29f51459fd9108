"""The records that the demo leaves, what the other commands make of them, and the report over them."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.demo.reading import CLIPPED, UNCLIPPED, last_lines, rows_of
from cli.report.markup import by_id, parsed
from gradclip.cli import main
from gradclip.cli.page import MOST_RUNS
from gradclip.cli.presets import PRESETS

FILES = {UNCLIPPED: "without-clipping.jsonl", CLIPPED: "with-clipping.jsonl"}


def records_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def demo(text: Path, out: Path, *arguments: str) -> None:
    assert main(["demo", "--text", str(text), "--max-norm", "0.6", "--out", str(out), *arguments]) == 0


@pytest.fixture(scope="module")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a demo of 24 steps has left."""
    out = tmp_path_factory.mktemp("trained")
    demo(text, out, "--steps", "24")
    return out


def test_each_step_is_recorded(trained: Path) -> None:
    for run, file in FILES.items():
        rows = [row for row in rows_of(trained) if row["run"] == run]
        records = records_of(trained / file)
        assert [record["step"] for record in records] == list(range(1, 25))
        assert [int(record["status"] == "clipped") for record in records] == [int(row["clipped"]) for row in rows]
        assert {record["threshold"] for record in records} == {0.6 if run == CLIPPED else None}
        for record, row in zip(records, rows, strict=True):
            assert record["total_norm"] == pytest.approx(float(row["gradient_norm"]), rel=1e-6)
            assert record["loss"] == pytest.approx(float(row["bits_per_character"]) * math.log(2), rel=1e-6)
            assert record["lr"] == 2.0
    assert 0 < sum(record["status"] == "clipped" for record in records) < 24


def test_norms_of_parameters_are_recorded_every_ten_steps(trained: Path) -> None:
    for file in FILES.values():
        records = records_of(trained / file)
        assert [record["step"] for record in records if record["norms"]] == [10, 20]
        for record in (records[9], records[19]):
            assert "rnn.weight_hh_l0" in record["norms"]
            total = math.sqrt(sum(norm**2 for norm in record["norms"].values()))
            assert total == pytest.approx(record["total_norm"], rel=1e-6)


def test_the_report_compares_the_runs(trained: Path) -> None:
    page = parsed((trained / "report.html").read_text("utf-8"))
    assert by_id(page, "fact-steps").attributes["value"] == "24"
    share = sum(record["status"] == "clipped" for record in records_of(trained / FILES[CLIPPED])) / 24
    assert float(by_id(page, "fact-clipped").attributes["value"]) == share > 0
    rows = by_id(page, "runs").all("tbody")[0].all("tr")
    assert [row.children[0].text for row in rows] == [CLIPPED, UNCLIPPED]


def test_the_report_over_many_runs_has_those_that_fit(text: Path, out: Path) -> None:
    demo(text, out, "--steps", "2", "--all")
    rows = by_id(parsed((out / "report.html").read_text("utf-8")), "runs").all("tbody")[0].all("tr")
    names = [preset.name for preset in PRESETS]
    assert [row.children[0].text for row in rows] == [names[0], UNCLIPPED, *names[1:]][:MOST_RUNS]
    assert all(len(records_of(out / f"{name}.jsonl")) == 2 for name in names)


def test_another_demo_replaces_the_files(text: Path, out: Path) -> None:
    demo(text, out, "--steps", "4")
    demo(text, out, "--steps", "3")
    assert [record["step"] for record in records_of(out / FILES[CLIPPED])] == [1, 2, 3]
    page = parsed((out / "report.html").read_text("utf-8"))
    assert by_id(page, "fact-steps").attributes["value"] == "3"


def test_the_other_commands_read_them(text: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo(text, out, "--steps", "130")
    capsys.readouterr()
    record = str(out / FILES[CLIPPED])
    clipped = [record["status"] == "clipped" for record in records_of(out / FILES[CLIPPED])]
    assert main(["advise", record, "--json"]) == 0
    advice = json.loads(capsys.readouterr().out)
    assert (advice["usable"], advice["recorded_bound"]) == (110, 0.6)
    assert advice["recorded_share"] == pytest.approx(sum(clipped[20:]) / 110)
    assert main(["replay", record, "--policy", "fixed:0.6", "--json"]) == 0
    (replayed,) = json.loads(capsys.readouterr().out)["policies"]
    assert replayed["share_clipped"] == pytest.approx(sum(clipped) / 130)
    assert main(["report", record, "--compare", str(out / FILES[UNCLIPPED]), "-o", str(out / "own.html")]) == 0
    assert "own.html" in capsys.readouterr().out


def test_a_run_that_is_lost_at_once_is_reported(text: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    demo(text, out, "--steps", "4", "--lr", "1e38")
    assert capsys.readouterr().out.splitlines()[-2:] == last_lines(out, FILES[CLIPPED], runs=2)
    assert records_of(out / FILES[CLIPPED])[-1]["status"] == "skipped_nonfinite"
    page = parsed((out / "report.html").read_text("utf-8"))
    assert by_id(page, "fact-skipped").attributes["value"] == "2"


@pytest.mark.parametrize("package", ["polars", "plotly", "jinja2", "tsdownsample"])
def test_goes_without_a_report_where_a_package_is_missing(
    package: str, text: Path, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    demo(text, out, "--steps", "2")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3] == f'No report without {package}: pip install ".[report]" in a clone of gradclip'
    assert lines[-2:] == last_lines(out, FILES[CLIPPED], runs=2, files="steps.csv, demo.png")
    assert not (out / "report.html").exists()
    assert len(records_of(out / FILES[CLIPPED])) == 2
