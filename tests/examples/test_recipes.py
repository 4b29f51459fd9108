"""The recipes: they learn, no optimizer sees more than the bound, and each proves what it is about."""

import math
import re
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.optim.swa_utils import AveragedModel

from gradclip.records import ClipRecord
from gradclip.testing import capture_records

EXAMPLES = Path(__file__).parents[2] / "examples"
ROUNDING = 1 + 1e-6


class Step(NamedTuple):
    """What an optimizer has just used, measured by torch alone."""

    optimizer: Optimizer
    norm: float
    clips: int


class Ran(NamedTuple):
    out: str
    steps: list[Step]
    records: list[ClipRecord]

    def numbers(self, word: str) -> list[float]:
        """All numbers that were printed behind a word."""
        return [float(x) for x in re.findall(rf"\b{word} +(-?[\d.]+\d)", self.out)]


def norm_of(optimizer: Optimizer) -> float:
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return math.hypot(*(x.double().norm().item() for x in gradients))


@pytest.fixture
def ran(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ran]]:
    """Run a recipe in this process, with an eye on every step."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(name: str, after_step: Callable[[Optimizer], None] = lambda _: None) -> Ran:
        steps: list[Step] = []

        def look(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
            steps.append(Step(optimizer, norm_of(optimizer), len(records)))
            after_step(optimizer)

        hook = register_optimizer_step_post_hook(look)
        try:
            with capture_records() as records:
                runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        finally:
            hook.remove()
        return Ran(capsys.readouterr().out, steps, records)

    yield run
    torch.set_num_threads(threads)


def test_all_are_listed() -> None:
    """In their table, with links that lead somewhere."""
    links = set(re.findall(r"\]\(([\w/]+\.py)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8")))
    assert links == {path.name for path in EXAMPLES.glob("*.py")} | {"distributed/torchtitan_style.py"}


def test_plain_loop(ran: Callable[..., Ran]) -> None:
    found = ran("plain_loop")
    assert len(found.steps) == 300
    assert max(step.norm for step in found.steps) <= 1.0 * ROUNDING
    assert max(found.numbers("norm")[:-1]) > 5.0  # before clipping
    first, *_, last = found.numbers("loss")
    assert last < first / 100


def test_amp(ran: Callable[..., Ran]) -> None:
    """The norm of unscaled gradients is bounded, on the steps that happened; those that overflowed are counted."""
    found = ran("amp")
    finite = [step.norm for step in found.steps if math.isfinite(step.norm)]
    assert max(finite) <= 1.0 * ROUNDING
    (clipped, happened, overflowed) = map(int, re.findall(r"clipped (\d+) of (\d+) steps; (\d+) over", found.out)[0])
    assert happened + overflowed == 100
    assert 0 < overflowed < 20
    assert [record.clipped for record in found.records if record.status != "skipped_scaler"].count(True) == clipped
    assert clipped > 20
    assert all(record.total_norm < 100 for record in found.records if record.status == "clipped")
    first, *_, last = found.numbers("loss")
    assert last < first / 10


def test_accumulation(ran: Callable[..., Ran]) -> None:
    """Once a step, and of all micro-batches: the record of each comes with it."""
    found = ran("accumulation")
    assert [step.clips for step in found.steps] == list(range(1, 51))
    assert max(step.norm for step in found.steps) <= 1.0 * ROUNDING
    assert 0 < [record.clipped for record in found.records].count(True) < 50
    assert "of 50 steps, of 4 micro-batches each" in found.out
    first, *_, last = found.numbers("loss")
    assert last < first / 10


def test_gan(ran: Callable[..., Ran]) -> None:
    """Each norm is that of one network alone, as its own optimizer sees it."""
    found = ran("gan")
    critic, generator = found.steps[0].optimizer, found.steps[1].optimizer
    assert [step.optimizer for step in found.steps] == [critic, generator] * 600
    assert [record.total_norm_after for record in found.records] == pytest.approx([step.norm for step in found.steps])
    assert max(step.norm for step in found.steps) <= 0.5 * ROUNDING
    assert {record.clipped for record in found.records} == {True, False}
    assert found.numbers("mean")[-1] == pytest.approx(3.0, abs=0.5)
    assert found.numbers("deviation")[-1] == pytest.approx(0.5, abs=0.25)


def test_ppo(ran: Callable[..., Ran]) -> None:
    found = ran("ppo")
    assert len(found.records) == len(found.steps) == 20 * 4 * 4
    assert max(step.norm for step in found.steps) <= 0.5 * ROUNDING
    first, *_, last = found.numbers("reward")
    assert first < -0.5
    assert last > -0.2


def test_sam(ran: Callable[..., Ran]) -> None:
    """The base optimizer alone steps, once for each pair of gradients, and sees them unscaled and clipped."""
    found = ran("sam")
    assert {type(step.optimizer).__name__ for step in found.steps} == {"SGD"}
    assert [step.clips for step in found.steps] == list(range(1, 101))
    assert max(step.norm for step in found.steps) <= 1.0 * ROUNDING
    assert [record.clipped for record in found.records].count(True) > 50
    first, *_, last = found.numbers("loss")
    assert last < first / 20


def test_agc(ran: Callable[..., Ran]) -> None:
    """Every unit but those of the head is at most its share of its weights, as they were before the step."""
    above: list[float] = []

    def measure(optimizer: Optimizer) -> None:
        (group,) = optimizer.param_groups
        for p in group["params"][:-2]:
            before, g = (x.reshape(len(x), -1) if x.ndim > 1 else x[None] for x in (p + group["lr"] * p.grad, p.grad))
            above.append((g.norm(dim=1) / (0.1 * before.norm(dim=1).clamp(min=1e-3))).max().item())

    found = ran("agc", measure)
    assert max(above) == pytest.approx(1.0, rel=1e-4)
    assert [record.clipped for record in found.records].count(True) > 50
    first, *_, last = found.numbers("loss")
    assert last < first / 5


def test_skipped_steps(ran: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    """The average moves after those clips alone whose step happened, and the learning rate decays as often."""
    moved: list[int] = []
    update = AveragedModel.update_parameters

    def counted(average: AveragedModel, model: torch.nn.Module) -> None:
        moved.append(len(rates))
        update(average, model)

    rates: list[float] = []
    monkeypatch.setattr(AveragedModel, "update_parameters", counted)
    found = ran("skipped_steps", lambda optimizer: rates.append(optimizer.param_groups[0]["lr"]))
    skipped = [record.step for record in found.records if record.status == "skipped_nonfinite"]
    assert skipped == [10, 30, 50]
    assert moved == [step for step in range(1, 61) if step not in skipped]
    decayed = [step for step in range(1, 60) if rates[step] < rates[step - 1]]
    assert decayed == [step for step in range(1, 60) if step not in skipped]
    assert "57 of 60 steps happened, and 57 were averaged" in found.out
    assert max(found.numbers("loss") + found.numbers("average")) < 0.5
