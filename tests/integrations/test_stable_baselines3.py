"""PPO of stable-baselines3, as it is, under `gradclip.patch()` and `gradclip run`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import gradclip
from gradclip.policies import FixedNorm
from gradclip.records import Memory
from gradclip.testing import assert_clipped
from integrations.loops import needed, same
from processes import GRADCLIP, run

stable_baselines3, _ = needed("stable_baselines3", "gymnasium")

from integrations.walk import agent  # noqa: E402 -- where they are installed

pytestmark = pytest.mark.filterwarnings("ignore")

UPDATES = 2 * 4 * 2  # rollouts, epochs, minibatches
SCRIPT = Path(__file__).parent / "walk.py"


def trained(max_norm: float = 0.5) -> Any:
    """Train it, with its own bound of 0.5, and look at what its optimizer sees."""
    model = agent()
    with assert_clipped(model.policy.optimizer, max_norm=max_norm, rtol=1e-5):
        model.learn(128)
    return model


def test_it_trains_as_without() -> None:
    """To the last digits; with a record of every step."""
    records = Memory()
    expected = trained()
    with gradclip.patch():
        same(trained().policy, expected.policy)
    with gradclip.patch(sinks=[records]):
        same(trained().policy, expected.policy)
    assert [record.step for record in records.records] == list(range(1, UPDATES + 1))
    assert {record.threshold for record in records.records} == {0.5}
    assert max(record.total_norm for record in records.records) > 0.5


def test_a_policy_in_place_of_its_bound() -> None:
    with gradclip.patch(FixedNorm(0.125)):
        trained(max_norm=0.125)


def test_a_run(tmp_path: Path) -> None:
    """The script as it is, by the command."""

    def weights(*command: object) -> list[float]:
        done = run(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found: list[float] = json.loads(done.stdout.splitlines()[-1])
        return found

    ours = weights(GRADCLIP, "run", "--record", "r.jsonl", SCRIPT)
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(weights(SCRIPT)), rtol=1e-6, atol=1e-6)
    lines = (tmp_path / "r.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, UPDATES + 1))
