"""The page in a browser: it opens, draws, answers, and asks the network for nothing."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from cli.report.browser import Page
from cli.report.looking import CHARTS, click, curve, drag, ends, press, settle, traces
from cli.report.made import SPIKES, TENSORS, norms_of, reported, training, write
from gradclip.cli.page.figures.style import COLOURS


def test_it_opens_without_a_complaint_and_asks_for_nothing(opened: Page, page_file: Path) -> None:
    assert opened.run("document.documentElement.dataset.charts") == "drawn"
    assert opened.complaints() == []
    assert {address for address in opened.requests() if not address.startswith("data:")} == {page_file.as_uri()}


def test_every_chart_is_drawn(opened: Page) -> None:
    assert opened.run("[...document.querySelectorAll('[data-chart]')].map((e) => e.dataset.chart)") == CHARTS
    drawn = """[...document.querySelectorAll('[data-chart]')].map((chart) =>
      [...chart.querySelectorAll('path.js-line, image')].filter((drawing) =>
        drawing.nodeName === 'image' || drawing.getTotalLength() > 10).length)"""
    lines = dict(zip(CHARTS, opened.run(drawn), strict=True))
    assert lines["norms"] == 15  # six steps that did not count cut the norms into seven pieces each; and the threshold
    assert lines["policies"] == 13  # the same pieces, and six policies
    assert all(count >= 1 for count in lines.values())


def points_of(tab: Page, chart: str) -> int:
    """How many points a chart shows that no line reaches."""
    return tab.run(f"document.querySelectorAll('#chart-{chart} path.point').length")


def test_points_between_gaps_are_seen(tab: Page, tmp_path: Path) -> None:
    """Norms among steps that are not finite, and losses of which each tenth is recorded; near ones are joined."""
    records = training(200)
    for record in records:
        if record["step"] % 10:
            record["loss"] = None
        if record["step"] > 100 and record["step"] % 2:
            record |= {"total_norm": None, "total_norm_after": None, "status": "skipped_nonfinite"}
    reported(write(tmp_path / "run.jsonl", records), tmp_path / "report.html")
    tab.open(tmp_path / "report.html")
    crosses = 50
    assert points_of(tab, "norms") == 2 * 50 + crosses
    assert points_of(tab, "policies") == 50
    assert points_of(tab, "loss") == 20
    tab.run("show(95, 111)")
    settle(tab)
    assert points_of(tab, "norms") == 2 * 6 + crosses  # up to one beyond


def test_the_rate_of_a_short_run_is_seen(tab: Page, tmp_path: Path) -> None:
    """It is known at its last step alone."""
    reported(write(tmp_path / "run.jsonl", training(10)), tmp_path / "report.html")
    tab.open(tmp_path / "report.html")
    assert points_of(tab, "rate") == 1
    assert points_of(tab, "norms") == 0


def test_zoomed_in_it_shows_every_number_of_the_file(opened: Page, records: list[dict[str, Any]]) -> None:
    """Norms and losses are float32 on the page."""
    opened.run("(document.getElementById('from').value = 600, document.getElementById('to').value = 800, 0)")
    opened.run("document.getElementById('to').dispatchEvent(new Event('change'))")
    settle(opened)
    wanted = {record["step"]: record for record in records if 600 <= record["step"] <= 800}
    for name, field in (("before clipping", "total_norm"), ("after clipping", "total_norm_after")):
        shown = {step: y for step, y in curve(opened, "norms", name).items() if 600 <= step <= 800}
        assert list(shown) == list(wanted)
        assert shown[662] is None
        expected = {step: record[field] for step, record in wanted.items() if step != 662}
        assert {step: y for step, y in shown.items() if step != 662} == pytest.approx(expected, rel=1e-6)
    losses = {step: y for step, y in curve(opened, "loss", "loss").items() if 600 <= step <= 800}
    assert losses == pytest.approx({step: record["loss"] for step, record in wanted.items()}, rel=1e-6)


@pytest.mark.parametrize("chart", ["norms", "loss"])
def test_zoomed_in_the_axis_fits_what_is_seen(opened: Page, chart: str) -> None:
    """And not spikes that are elsewhere."""
    axis = f"document.getElementById('chart-{chart}')._fullLayout.yaxis"
    before = opened.run(f"{axis}.range[1] - {axis}.range[0]")
    opened.run("(document.getElementById('from').value = 900, document.getElementById('to').value = 1100, 0)")
    opened.run("document.getElementById('to').dispatchEvent(new Event('change'))")
    settle(opened)
    assert opened.run(f"{axis}.range[1] - {axis}.range[0]") < before / 2


def test_buttons_zoom_all_charts_over_steps(opened: Page) -> None:
    assert ends(opened) == (1, 2000)
    press(opened, "norms", "Zoom in")
    assert ends(opened) == (500.75, 1500.25)
    press(opened, "heat", "Zoom in")
    assert ends(opened) == (750.625, 1250.375)
    press(opened, "loss", "Zoom out")
    assert ends(opened) == (500.75, 1500.25)
    for _ in range(3):
        press(opened, "norms", "Zoom out")
        assert ends(opened) == (1, 2000)  # and not beyond
    for _ in range(14):
        press(opened, "norms", "Zoom in")
    low, high = ends(opened)
    assert high - low == 2  # and not less
    press(opened, "norms", "Reset axes")
    assert ends(opened) == (1, 2000)


def test_dragging_zooms_all_charts_over_steps(opened: Page) -> None:
    drag(opened, 0.25, 0.5)
    assert ends(opened) == (pytest.approx(1 + 1999 * 0.25, abs=8), pytest.approx(1 + 1999 * 0.5, abs=8))


def test_dragging_moves_all_charts_over_steps_where_a_button_says_so(opened: Page) -> None:
    """As far as the run goes; and it goes on saying so."""
    press(opened, "norms", "Zoom in")
    press(opened, "norms", "Pan")
    drag(opened, 0.5, 0.3)
    low, high = ends(opened)
    assert (low, high) == (pytest.approx(500.75 + 0.2 * 999.5, abs=8), pytest.approx(1500.25 + 0.2 * 999.5, abs=8))
    drag(opened, 0.9, 0.1)
    assert ends(opened) == (pytest.approx(2000 - (high - low)), 2000)


def test_hovering_says_what_happened_at_a_step(opened: Page) -> None:
    """All curves there, and a step near by that did not count."""
    opened.run("document.getElementById('chart-norms').scrollIntoView({ block: 'center' })")
    box = "document.querySelector('#chart-norms .nsewdrag').getBoundingClientRect()"
    left, top, width, height = opened.run(f"(({{ left, top, width, height }}) => [left, top, width, height])({box})")
    opened.move(left + width * 660 / 1999, top + height / 2)
    opened.wait("document.querySelectorAll('#chart-norms .hoverlayer text').length > 0")
    said = opened.run("[...document.querySelectorAll('#chart-norms .hoverlayer text')].map((e) => e.textContent)")
    assert [line.split(" : ")[0] for line in said[1:4]] == ["before clipping", "after clipping", "threshold"]
    assert said[4] == "step 662 skipped: the norm is not finite"


def test_boxes_hide_and_show_curves_and_change_scales(opened: Page) -> None:
    def names() -> set[str]:
        return {trace["name"] for trace in traces(opened, "norms") if "name" in trace}

    assert names() == {"before clipping", "after clipping", "threshold"}
    click(opened, "after")
    assert names() == {"before clipping", "threshold"}
    click(opened, "threshold")
    assert names() == {"before clipping"}
    assert opened.run("document.getElementById('chart-norms').layout.yaxis.type") == "log"
    click(opened, "log")
    assert opened.run("document.getElementById('chart-norms').layout.yaxis.type") == "linear"
    assert opened.run("document.getElementById('chart-histogram').layout.yaxis.type") == "linear"
    click(opened, "logCounts")
    assert opened.run("document.getElementById('chart-histogram').layout.yaxis.type") == "log"
    click(opened, "policies.3")
    assert "zclip" not in {trace.get("name") for trace in traces(opened, "policies")}


def test_the_histogram_counts_every_norm_once(opened: Page, records: list[dict[str, Any]]) -> None:
    (shown,) = traces(opened, "histogram")
    edges, shares = shown["x"][:-1], shown["y"][:-2]
    norms = norms_of(records)
    counts = [sum(low <= norm < high for norm in norms) for low, high in itertools.pairwise(edges)]
    counts[-1] += 1  # the largest
    assert sum(counts) == len(norms)
    assert shares == pytest.approx([100 * count / len(norms) for count in counts])
    assert [text.split(": ")[1] for text in shown["text"][:-2]] == [f"{n} of {len(norms):,} steps" for n in counts]


def test_the_heat_map_has_the_norms_of_the_tensors(opened: Page, records: list[dict[str, Any]]) -> None:
    (heat,) = traces(opened, "heat")
    each = {record["step"]: record["norms"] for record in records if record["norms"] is not None}
    assert heat["x"] == list(each)
    for row, name in zip(heat["z"], TENSORS, strict=True):
        assert row == pytest.approx([math.log10(norms[name]) for norms in each.values()], abs=1e-6)


def test_compared_runs_keep_their_colours(tab: Page, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.jsonl", training(400, seed=i)) for i, name in enumerate("abc")]
    reported(files[0], tmp_path / "out.html", *files[1:])
    tab.open(tmp_path / "out.html")
    colours = [COLOURS[f"run-{i}"] for i in (1, 2, 3)]
    expected = {f"{name}.jsonl": colour for name, colour in zip("abc", colours, strict=True)}
    for chart, ending in (("norms", ": before clipping"), ("rate", ""), ("loss", ""), ("histogram", "")):
        drawn = {trace["name"]: trace["line"]["color"] for trace in traces(tab, chart) if "name" in trace}
        for name, colour in expected.items():
            assert drawn[name + ending] == colour
    click(tab, "runs.1")
    for chart in ("norms", "rate", "loss", "histogram"):
        assert not any("b.jsonl" in trace.get("name", "") for trace in traces(tab, chart))


def test_spikes_stay_on_a_phone(opened: Page) -> None:
    """Where one pixel stands for several steps."""
    opened.size(390, 844, phone=True)
    opened.wait("document.getElementById('chart-norms')._fullLayout.width < 390")
    settle(opened)
    assert max(y for y in curve(opened, "norms", "before clipping").values() if y is not None) == SPIKES[1500]
    tallest = (
        """Math.max(...[...document.querySelectorAll('#chart-norms path.js-line')].map((e) => e.getBBox().height))"""
    )
    assert opened.run(tallest) > 0.6 * opened.run("document.querySelector('#chart-norms .nsewdrag').getBBox().height")
