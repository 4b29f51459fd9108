"""What the captions of drawn figures say is what is drawn."""

import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from gradclip.cli.demo.text import load
from gradclip.cli.presets import PRESETS

DOCS = Path(__file__).parents[2] / "docs"

CHARACTERS = 465_126
"""Of the documentation of the Python for which the captions were written: others train on another text."""


def drawn(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module(f"plots.{name}")


def captions() -> dict[str, str]:
    """The captions of the pages of policies, by what they draw."""
    text = "".join(page.read_text("utf-8") for page in (DOCS / "policies").glob("*.md"))
    return dict(re.findall(r"```\{drawn\} decisions (\S+)\n(.*?)\n```", text, flags=re.DOTALL))


def test_each_policy_of_the_demo_has_a_figure() -> None:
    """And no page draws another."""
    assert set(captions()) == {preset.name for preset in PRESETS}


def test_captions_say_what_became_of_the_damaged_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm that is left of it, where the caption has it; one policy skips it, and nothing else."""
    if load(None).characters != CHARACTERS:
        pytest.skip("this Python has another documentation, and trains on that")
    module = drawn("run", monkeypatch)
    said = {}
    for name, seen in module.run().items():
        assert max(seen.norms) == seen.norms[module.DAMAGED - 1] > 10.0
        after = captions()[name].partition(f"step {module.DAMAGED}")[2]
        said[name] = [float(number) for number in re.findall(r"\d(?:\.\d)?", after)]
        assert all(abs(number - seen.after[module.DAMAGED - 1]) < 0.06 for number in said[name])
        skipped = [step for step, norm in enumerate(seen.after, start=1) if norm == 0.0]
        assert skipped == ([module.DAMAGED] if name == "spike-skip" else [])
    assert sorted(map(len, said.values())) == 3 * [0] + 8 * [1]


def test_the_caption_about_explosions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders of magnitude on the left, and the wall on the right."""
    left, right = drawn("explosion", monkeypatch).draw().axes
    ends = [line.get_ydata()[-1] for line in left.get_lines()]
    assert max(ends) / min(ends) > 1e7
    slope = torch.as_tensor(right.get_lines()[1].get_ydata())
    assert 1500 < slope.max() / slope.median() < 2500
