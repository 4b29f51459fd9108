"""What the demo draws."""

import math
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from cli.demo.reading import CLIPPED, UNCLIPPED, shows, step, trained
from gradclip.cli.demo.picture import COLORS, draw
from gradclip.policies import FixedNorm
from processes import printed


def test_drawing_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    program = f"""
import sys, matplotlib
from pathlib import Path
before = list(matplotlib.rcParams.copy().values())
from cli.demo.reading import step, trained
from gradclip.cli.demo.picture import draw
Path({str(tmp_path / "a.png")!r}).write_bytes(draw([trained("one", [step(1, 2.0, 3.0)], 2.0)], "t"))
print("matplotlib.pyplot" in sys.modules, list(matplotlib.rcParams.copy().values()) == before)
"""
    assert printed(program) == "False True\n"
    assert shows(tmp_path / "a.png", COLORS[0])


@pytest.mark.parametrize(("most", "fewest", "least"), [(500.0, 5, "5"), (1e30, 3, "1")])
def test_each_scale_has_numbers(most: float, fewest: int, least: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However far a run exploded; and as many as there is room for where it did not."""
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, _: drawn.append(figure))
    steps = [step(1, 6.0, 4.0), step(2, most, most), step(3, math.inf, math.nan)]
    clipped = trained(CLIPPED, [step(1, 6.0, 4.0), step(2, 1.5, 0.5)], 2.0, policy=FixedNorm(1.0))
    draw([trained(UNCLIPPED, steps, 9.0), clipped], "t")
    for axes in drawn[0].axes:
        low, high = axes.get_ylim()
        ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
        assert fewest <= len(ticks) <= 12
        assert least in axes.yaxis.get_major_formatter().format_ticks(ticks)
