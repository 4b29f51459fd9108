"""Each loop of the quickstart runs by itself, as whoever copies it finds it."""

import re
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from conftest import skip_without
from gradclip import MisuseWarning
from gradclip.testing import capture_records
from processes import ranks

PAGE = Path(__file__).parents[2] / "docs" / "tutorials" / "quickstart.md"

FRAMEWORKS = ("accelerate", "lightning", "transformers")


def loops() -> dict[str, str]:
    """The script of each section, by its heading."""
    sections = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    found = {x.partition("\n")[0]: re.findall(r"^```python\n(.*?)^```", x, re.MULTILINE | re.DOTALL) for x in sections}
    return {heading: script for heading, scripts in found.items() for script in scripts}


LOOPS = loops()
BY_RANKS = {heading: script for heading, script in LOOPS.items() if "torch.distributed" in script}
ALONE = {heading: script for heading, script in LOOPS.items() if heading not in BY_RANKS}


@pytest.fixture
def _no_accelerator_before() -> Iterator[None]:
    """Accelerate refuses a second accelerator of a process that asks for another precision."""
    forget_accelerators()
    yield
    forget_accelerators()


def forget_accelerators() -> None:
    if find_spec("accelerate"):
        import_module("accelerate.state").AcceleratorState._reset_state(reset_partial_state=True)


def test_each_section_has_one_script() -> None:
    """No block of the page is left out."""
    assert len(LOOPS) == PAGE.read_text("utf-8").count("```python\n") == 12
    assert sorted(BY_RANKS) == ["DDP", "FSDP2"]


@pytest.mark.parametrize("heading", LOOPS)
def test_lines_of_gradclip_are_marked(heading: str) -> None:
    """All that name it, in a script, and at least one that is no import."""
    lines = [line for line in LOOPS[heading].splitlines() if "gradclip" in line.partition("#")[0]]
    assert all("# gradclip" in line for line in lines)
    assert any("import" not in line and "# gradclip" in line for line in LOOPS[heading].splitlines())


@pytest.mark.usefixtures("_no_accelerator_before")
@pytest.mark.parametrize("heading", ALONE)
def test_a_loop_runs_and_clips(heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a script of its own, in which nothing is misused; a clipper in it has clipped at every step."""
    script = ALONE[heading]
    for framework in FRAMEWORKS:
        if re.search(rf"^(?:import|from) {framework}\b", script, re.MULTILINE) and find_spec(framework) is None:
            skip_without("integrations", f"{framework} is not installed")
    monkeypatch.chdir(tmp_path)  # they may write files
    with warnings.catch_warnings(), capture_records() as records:
        warnings.simplefilter("ignore")  # those of frameworks
        warnings.simplefilter("error", MisuseWarning)
        exec(compile(script, heading, "exec"), {"__name__": "__main__"})  # noqa: S102 -- our own page
    steps = [record.step for record in records]
    assert len(steps) >= 10 or "clip_grad_norm_" in script
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("heading", BY_RANKS)
def test_a_loop_runs_on_two_ranks(heading: str, tmp_path: Path) -> None:
    """As torchrun would start it; both ranks see the same norm, of more than one step."""
    script = tmp_path / "train.py"
    script.write_text(BY_RANKS[heading], "utf-8")
    done = ranks(script, size=2, cwd=tmp_path)
    assert [x.returncode for x in done] == [0, 0], "".join(x.stderr for x in done)
    assert "MisuseWarning" not in "".join(x.stderr for x in done)
    said = [re.findall(r"^rank (\d): (ClipResult\(step=10, .*\))$", x.stdout, re.MULTILINE) for x in done]
    result = said[0][0][1]
    assert said == [[("0", result)], [("1", result)]]
