"""The command that prints the table of all policies on synthetic norms."""

import json
from pathlib import Path

from processes import run

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "synthetic.py"


def printed(*arguments: str) -> list[str]:
    result = run(SCRIPT, *arguments, PYTHONWARNINGS="error")
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


def test_the_table_has_a_row_a_version() -> None:
    _, _, first, second, ours, published = printed("--policy", "SpikeSkip")
    assert len(first) == len(second) == len(ours) == len(published)
    assert ours.split()[:4] == ["SpikeSkip", "gradclip", "0.0", "0.1"]
    assert ours.split()[4:7] == ["skipped"] * 3
    assert published.split()[4:7] == ["skipped", "100.00", "100.00"]


def test_json_has_the_figures_and_the_policy() -> None:
    fixed, ours, published = map(
        json.loads, printed("--json", "--seed", "1", "--policy", "FixedNorm", "--policy", "ZClip")
    )
    assert fixed["policy"].startswith("FixedNorm(max_norm=1.136")
    assert fixed["unlock_steps"] is None
    assert (ours["name"], ours["version"], published["version"]) == ("ZClip", "gradclip", "published")
    assert 10 < ours["unlock_steps"] < 60
    assert ours["policy"].replace("patience=20.0", "patience=inf") == published["policy"]
    assert published["unlock_steps"] is None
