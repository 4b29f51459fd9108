"""What the demo draws."""

from pathlib import Path

from cli.demo.reading import shows
from gradclip.cli.demo.picture import COLORS
from processes import printed


def test_drawing_leaves_matplotlib_as_it_was(tmp_path: Path) -> None:
    program = f"""
import sys, matplotlib
from pathlib import Path
before = list(matplotlib.rcParams.copy().values())
from gradclip.cli.demo.runs import Outcome
from gradclip.cli.demo.picture import draw
from gradclip.cli.demo.training import StepRecord
draw([Outcome("one", [StepRecord(1, 2.0, 3.0, False)], 2.0, "")],
     guessing_bits=6.0, max_norm=1.0, title="t", path=Path({str(tmp_path / "a.png")!r}))
print("matplotlib.pyplot" in sys.modules, list(matplotlib.rcParams.copy().values()) == before)
"""
    assert printed(program) == "False True\n"
    assert shows(tmp_path / "a.png", COLORS[0])
