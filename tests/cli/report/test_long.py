"""A million steps: a file that can be sent around, and charts that lose nothing."""

from pathlib import Path

import pytest
import torch

from cli.report.browser import Page
from cli.report.looking import curve, settle
from gradclip.analysis.series import Series
from gradclip.cli.page import run
from gradclip.cli.page.build import build
from gradclip.cli.page.figures.curves import MOST_POINTS

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
        patch.setattr(run, "REPLAYED", 1000)
        patch.setattr(run.Run, "alarms", {})
        build([series], out)
    return out


def test_it_is_small_enough_to_send_around(page: Path) -> None:
    assert 5e6 < page.stat().st_size < 12e6


def test_the_spike_is_seen_from_far_and_from_near(tab: Page, page: Path, norms: torch.Tensor) -> None:
    """Of a million points, a chart has some thousand at most; zoomed in, they are the steps themselves."""
    tab.open(page)
    assert tab.complaints() == []
    far = curve(tab, "norms", "before clipping")
    assert len(far) <= MOST_POINTS
    assert max((y, x) for x, y in far.items()) == (5e4, SPIKE + 1)

    tab.run(f"(document.getElementById('from').value = {SPIKE - 99}, 0)")
    tab.run(f"(document.getElementById('to').value = {SPIKE + 101}, 0)")
    tab.run("document.getElementById('to').dispatchEvent(new Event('change'))")
    settle(tab)
    points = curve(tab, "norms", "before clipping")
    steps = range(SPIKE - 99, SPIKE + 102)
    assert [points[step] for step in steps] == pytest.approx(norms[SPIKE - 100 : SPIKE + 101].tolist(), rel=1e-6)
    for name, value in (("after clipping", lambda step: min(points[step], 2.0)), ("threshold", lambda step: 2.0)):
        near = curve(tab, "norms", name)
        assert [near[step] for step in steps] == pytest.approx([value(step) for step in steps], rel=1e-6)
    # The replayed steps are others: their chart shows all of them, and not a tick for each.
    low, high, tick = tab.run(
        "(({ range, dtick }) => [...range, dtick])(document.getElementById('chart-policies')._fullLayout.xaxis)"
    )
    assert (low, high) == (STEPS - 999, STEPS) and tick >= 50
