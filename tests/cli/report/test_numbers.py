"""The numbers on the page are those of the file: computed anew here, from the records."""

import math
from pathlib import Path
from typing import Any

import pytest

from cli.report.made import BOUND, SPIKES, TENSORS, middle, norms_of, reported, training, write
from cli.report.markup import Element, by_id, parsed
from cli.report.packed import figure_of


@pytest.fixture(scope="module")
def tree(source: str) -> Element:
    return parsed(source)


def number(tree: Element, name: str) -> float:
    value = by_id(tree, name).attributes["value"]
    assert value is not None
    return float(value)


def rows(tree: Element, section: str, place: int = 0) -> list[list[str]]:
    """The cells of a table of a section, without its head."""
    body = by_id(tree, section).all("table")[place].all("tbody")[0]
    return [[cell.text for cell in row.children] for row in body.all("tr")]


def test_the_facts(tree: Element, records: list[dict[str, Any]]) -> None:
    norms = norms_of(records)
    assert number(tree, "fact-steps") == len(records) == 2000
    assert number(tree, "fact-clipped") == sum(record["status"] == "clipped" for record in records) / len(records)
    assert number(tree, "fact-median") == pytest.approx(middle(norms, 0.5), rel=1e-12)
    assert number(tree, "fact-largest") == max(norms) == SPIKES[1500]
    assert number(tree, "fact-skipped") == 6
    assert "step 1,500" in by_id(tree, "fact-largest").parent.parent.text


def test_the_sentence_says_the_same(tree: Element, records: list[dict[str, Any]]) -> None:
    share = 100 * sum(record["status"] == "clipped" for record in records) / len(records)
    acted = (
        f"Clipping acted on {share:.1f} % of the steps and let no norm above 1 through; the largest before it was 321."
    )
    assert by_id(tree, "verdict").text == acted


def test_one_run_is_not_named_again(tree: Element) -> None:
    assert by_id(tree, "threshold").all("h2")[0].text == "Which threshold to use"


def test_the_stretches(tree: Element, records: list[dict[str, Any]]) -> None:
    found = rows(tree, "norms")
    assert len(found) == 10
    for i, row in enumerate(found):
        part = records[200 * i : 200 * (i + 1)]
        norms = norms_of(part)
        clipped = sum(record["status"] == "clipped" for record in part) / 200
        assert row[0] == f"{200 * i + 1:,} to {200 * (i + 1):,}"
        assert float(row[1]) == pytest.approx(middle(norms, 0.5), rel=1e-3)
        assert float(row[2]) == pytest.approx(max(norms), rel=1e-3)
        assert float(row[3].removesuffix(" %")) == pytest.approx(100 * clipped, abs=0.5)


def test_the_percentiles(tree: Element, records: list[dict[str, Any]]) -> None:
    found = {row[0]: float(row[1]) for row in rows(tree, "threshold", -1)}
    norms = norms_of(records)
    expected = {f"{q:g}": middle(norms, q / 100) for q in (1, 10, 50, 90, 99, 99.9, 100)}
    assert found == pytest.approx(expected, rel=1e-3)


def test_the_tensors(tree: Element, records: list[dict[str, Any]]) -> None:
    """Mean and largest share of the sum of squares, median and largest norm, and the step of the latter."""
    each = [(record["step"], record["norms"]) for record in records if record["norms"] is not None]
    found = {row[0]: row[1:] for row in rows(tree, "tensors")}
    assert len(each) == 200
    assert set(found) == set(TENSORS)
    for name in TENSORS:
        shares = [norms[name] ** 2 / sum(norm**2 for norm in norms.values()) for _, norms in each]
        norms = {norms[name]: step for step, norms in each}
        mean, largest_share, median, largest, step = found[name]
        assert float(mean.removesuffix(" %")) == pytest.approx(100 * sum(shares) / len(shares), rel=0.05)
        assert float(largest_share.removesuffix(" %")) == pytest.approx(100 * max(shares), rel=0.05)
        assert float(median) == pytest.approx(middle(list(norms), 0.5), rel=1e-3)
        assert float(largest) == pytest.approx(max(norms), rel=1e-3)
        assert int(step.replace(",", "")) == norms[max(norms)]


def test_the_events(tree: Element) -> None:
    found = rows(tree, "events")
    assert [row[0] for row in found] == ["331", "662", "993", "1,324", "1,655", "1,986"]
    expected = f"{TENSORS[1]} 3 NaN, 0 infinite{TENSORS[4]} 0 NaN, 7 infinite"
    assert {tuple(row[1:]) for row in found} == {("skipped: the norm is not finite", expected)}


def test_what_fixed_policies_would_have_done(tree: Element, records: list[dict[str, Any]]) -> None:
    """For a fixed threshold it is a count of the norms above it."""
    found = {row[0].split("FixedNorm")[0]: row for row in rows(tree, "policies") if "FixedNorm" in row[0]}
    assert list(found) == ["fixed, tight", "fixed, balanced", "fixed, conservative"]
    for name, row in found.items():
        bound = float(f"{number(tree, f'advice-{name.split()[1]}'):.3g}")
        above = sum(norm > bound for norm in norms_of(records)) / len(records)
        assert f"FixedNorm(max_norm={bound}" in row[0]
        assert float(row[1].removesuffix(" %")) == pytest.approx(100 * above, rel=0.05)
        assert float(row[2].removesuffix(" %")) == pytest.approx(100 * 6 / 2000, abs=0.01)
        assert float(row[3]) == pytest.approx(bound, rel=1e-3)


def test_compared_runs_have_their_numbers_in_one_table(tmp_path: Path) -> None:
    """Two files of one name in different folders are told apart."""
    parts = {}
    for name, seed, bound in (("a", 1, 1.0), ("b", 2, 0.25)):
        (tmp_path / name).mkdir()
        parts[name] = training(600, seed=seed, bound=bound)
        write(tmp_path / name / "clip.jsonl", parts[name])
    tree = parsed(reported(tmp_path / "a" / "clip.jsonl", tmp_path / "out.html", tmp_path / "b" / "clip.jsonl"))
    found = {row[0]: row[1:] for row in rows(tree, "runs")}
    assert list(found) == ["a/clip.jsonl", "b/clip.jsonl"]
    for name, bound in (("a", 1.0), ("b", 0.25)):
        norms = norms_of(parts[name])
        row = found[f"{name}/clip.jsonl"]
        clipped = 100 * sum(record["status"] == "clipped" for record in parts[name]) / 600
        assert row[0] == "600"
        assert float(row[1].removesuffix(" %")) == pytest.approx(clipped, abs=0.5)
        assert float(row[2]) == pytest.approx(middle(norms, 0.5), rel=1e-3)
        assert float(row[3]) == pytest.approx(middle(norms, 0.99), rel=1e-3)
        assert float(row[4]) == pytest.approx(max(norms), rel=1e-3)
        assert float(row[5]) == bound == float(row[8])
        assert row[6] == row[7] == "1"
    assert "Mostly clipped in “b/clip.jsonl”" in by_id(tree, "alarms").text
    headings = [by_id(tree, section).all("h2")[0].text for section in ("threshold", "policies", "events")]
    assert all(heading.endswith(" in “a/clip.jsonl”") for heading in headings)


def test_what_is_not_recorded_is_not_said(tmp_path: Path) -> None:
    """A column of norms, as many people have it."""
    run = tmp_path / "norms.csv"
    run.write_text("step,grad_norm\n" + "".join(f"{i},{1 + math.sin(i) / 4}\n" for i in range(1, 300)), "utf-8")
    tree = parsed(reported(run, tmp_path / "out.html"))
    facts = [fact.text for fact in by_id(tree, "main").all("dl")[0].children]
    assert facts[1].startswith("Clippednot recorded")
    assert facts[4].startswith("Skippednot recorded")
    assert by_id(tree, "verdict").text.startswith("What clipping did was not recorded: the largest norm was 1.25")
    charts = [element.attributes["data-chart"] for element in tree.everything() if "data-chart" in element.attributes]
    assert charts == ["norms", "histogram", "policies"]


def test_what_a_reader_should_know_of_the_file_is_said(tmp_path: Path) -> None:
    run = write(tmp_path / "run.jsonl", training(50))
    run.write_text(run.read_text("utf-8") + '{"step": 51, "total_no', "utf-8")
    remarks = parsed(reported(run, tmp_path / "out.html")).all("footer")[0].all("ul")[0].all("li")
    (remark,) = remarks
    assert remark.text.startswith("run.jsonl: ") and "Line 51 is torn" in remark.text


def test_the_threshold_in_use_and_the_suggested_ones_are_in_the_histogram(tree: Element, source: str) -> None:
    layout = figure_of(source, "histogram")["layout"]
    lines = [(line["x0"], line["line"]["dash"]) for line in layout["shapes"]]
    names = [name["text"] for name in layout["annotations"]]
    suggested = [float(f"{number(tree, f'advice-{name}'):.3g}") for name in ("tight", "balanced", "conservative")]
    assert lines == [*((value, "solid") for value in suggested), (BOUND, "dash")]
    assert names == [
        *(f"{name} {value}" for name, value in zip(("tight", "balanced", "conservative"), suggested, strict=True)),
        "in use 1",
    ]
    assert [name["x"] for name in layout["annotations"]] == pytest.approx([math.log10(x) for x, _ in lines])
