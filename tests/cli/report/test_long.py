"""A million steps: a file that can be sent around, and charts that lose nothing."""

from pathlib import Path

import pytest
import torch

from cli.report.browser import Page
from cli.report.looking import curve, settle, traces
from gradclip.analysis.series import Series
from gradclip.cli.report import findings, policies
from gradclip.cli.report.build import build
from gradclip.cli.report.runs import Run

STEPS = 1_000_000
SPIKE = 765_432
"""The place of the largest norm; its step is one more."""


@pytest.fixture(scope="module")
def norms() -> torch.Tensor:
    made = torch.randn(STEPS, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(0.4).exp()
    made[SPIKE] = 5e4
    return made


@pytest.fixture(scope="module")
def page(norms: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without what takes long and is tested on shorter runs: replays of many steps, and alarms."""
    bound = torch.full_like(norms, 2.0)
    after = norms.minimum(bound)
    series = Series("run", torch.arange(1, STEPS + 1), norms, after, bound, losses=after.log())
    out = tmp_path_factory.mktemp("long") / "out.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policies, "REPLAYED", 1000)
        patch.setattr(findings, "alarms_of", lambda run: [])
        build([Run("run", series)], out)
    return out


def test_it_is_small_enough_to_send_around(page: Path) -> None:
    assert 5e6 < page.stat().st_size < 12e6


def test_the_spike_is_seen_from_far_and_from_near(tab: Page, page: Path, norms: torch.Tensor) -> None:
    """A chart has some thousand points at most; zoomed in, they are the steps themselves."""
    tab.open(page)
    assert tab.complaints() == []
    shown = traces(tab, "norms")
    assert max(len(trace["x"]) for trace in shown) < 5000
    band = next(trace for trace in shown if "name" not in trace)
    top = max((y, x) for x, y in zip(band["x"], band["y"], strict=True) if y is not None)
    assert top == (5e4, pytest.approx(SPIKE + 1, abs=1000))

    tab.run(f"(document.getElementById('from').value = {SPIKE - 99}, 0)")
    tab.run(f"(document.getElementById('to').value = {SPIKE + 101}, 0)")
    tab.run("document.getElementById('to').dispatchEvent(new Event('change'))")
    settle(tab)
    points = curve(tab, "norms", "before clipping")
    steps = range(SPIKE - 99, SPIKE + 102)
    assert [points[step] for step in steps] == pytest.approx(norms[SPIKE - 100 : SPIKE + 101].tolist(), rel=1e-6)
    after = curve(tab, "norms", "after clipping")
    assert [after[step] for step in steps] == pytest.approx([min(points[step], 2.0) for step in steps], rel=1e-6)
