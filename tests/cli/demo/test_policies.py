"""`gradclip demo --policy NAME` and `--all`: every policy by its name, ours and as published."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from cli.demo.reading import CLIPPED, UNCLIPPED, last_lines, refused, rows_of, shows
from gradclip.cli import main
from gradclip.cli.demo.picture import COLORS
from gradclip.cli.demo.text import load
from gradclip.cli.demo.training import Run
from gradclip.cli.presets import BY_NAME, PRESETS

PALE = "#F2CFB3"
"""The run without clipping behind each of the others."""

OURS = {
    "fixed": "FixedNorm(max_norm=0.5,",
    "value": "FixedValue(clip_value=0.01)",
    "block-rms": "BlockRMS(threshold=0.007)",
    "agc": "AGC(clip_factor=0.01,",
    "autoclip": "AutoClip(max_norm=0.5, percentile=10.0,",
    "median": "MedianClip(max_norm=0.5,",
    "zclip": "ZClip(max_norm=0.5,",
    "adagc": "AdaGC(max_norm=0.5,",
    "spike-skip": "SpikeSkip(max_norm=0.5,",
    "smooth": "SmoothNorm(max_norm=0.5,",
    "normalize": "Normalize(gamma=0.01,",
}

OTHERS = {
    "autoclip-90": "AutoClip(max_norm=0.5, percentile=90.0, window=1000,",
    "autoclip-published": "AutoClip(max_norm=inf, percentile=10.0, window=None,",
    "autoclip-90-published": "AutoClip(max_norm=inf, percentile=90.0, window=None,",
    "median-published": "MedianClip(max_norm=inf,",
    "zclip-published": "ZClip(max_norm=inf, z_threshold=2.5, alpha=0.97, warmup=25, eps=1e-06, patience=inf,",
    "adagc-published": "Chain(links=(Warmup(steps=99, policy=FixedNorm(max_norm=0.5,",
    "spike-skip-published": "SpikeSkip(max_norm=inf, sigmas=6.0, window=128, warmup=64, learn_skipped=True,",
}


def test_the_names_are_these() -> None:
    assert [preset.name for preset in PRESETS] == list(OURS)
    assert list(BY_NAME) == [*OURS, *OTHERS]


@pytest.mark.usefixtures("numbers_alone")
@pytest.mark.parametrize(("name", "policy"), [*OURS.items(), *OTHERS.items()])
def test_trains_with_the_policy_of_that_name(
    name: str, policy: str, text: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The clipped run is that of the policy, and the other one is the same as ever."""
    arguments = ["--text", str(text), "--steps", "4", "--policy", name, "--max-norm", "0.5", "--out", str(out)]
    assert main(["demo", *arguments]) == 0
    printed = capsys.readouterr().out
    expected: list[tuple[float, float, int]] = []
    for chosen in (None, BY_NAME[name].policy(0.5)):
        run = Run("", chosen, load(text), seed=0)
        clipped = [int(clip.clipped) for clip in run.train(steps=4, lr=2.0)]
        expected += zip(run.bits, run.norms, clipped, strict=True)
    shown = CLIPPED if name == "fixed" else name
    assert f"\n{shown} is {policy}" in printed
    rows = rows_of(out)
    assert [row["run"] for row in rows] == [UNCLIPPED] * 4 + [shown] * 4
    columns = ("bits_per_character", "gradient_norm", "clipped")
    assert [tuple(float(row[column]) for column in columns) for row in rows] == expected


@pytest.mark.usefixtures("numbers_alone")
def test_naming_the_default_changes_nothing(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = []
    for words in ([], ["--policy", "fixed"]):
        assert main(["demo", "--text", str(text), "--steps", "3", *words]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_compares_all(text: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One run each, one row each, one panel each."""
    assert main(["demo", "--text", str(text), "--steps", "3", "--all", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    names = [UNCLIPPED, *OURS]
    assert [row["run"] for row in rows_of(out)] == [name for name in names for _ in range(3)]
    assert [line.split(":")[0] for line in lines if "step 3/3" in line] == names
    table = [line.split() for line in lines if line.startswith(" ") and line.endswith("of 3 ")]
    assert [" ".join(cells[:-8]) for cells in table] == names
    assert [cells[-5] for cells in table if cells[0] in {"without", "smooth"}] == ["0", "100"]
    assert [line.split(":")[0].strip() for line in lines[-2 - len(names) : -2]] == names  # what they write
    assert max(len(line) for line in lines if line.startswith(" ") and ":" not in line) <= 80
    assert lines[-2:] == last_lines(out, "fixed.jsonl", runs=len(names))
    assert all(shows(out / "demo.png", color) for color in (*COLORS, PALE))
    picture = matplotlib.image.imread(out / "demo.png")[..., :3]
    assert picture.shape[1] == 1200
    blue = np.array([int(COLORS[1][i : i + 2], 16) / 255 for i in (1, 3, 5)])
    down, across = np.nonzero(np.abs(picture - blue).max(axis=-1) < 0.02)
    panels = {(int(4 * y / picture.shape[0]), int(3 * x / 1200)) for y, x in zip(down, across, strict=True)}
    assert len(panels) == len(OURS)  # all but the first, which has the run without clipping


@pytest.mark.parametrize("name", ["zclip", "median", "autoclip-90", "spike-skip"])
def test_learning_from_an_exploding_run_fails_without_a_ceiling(name: str) -> None:
    """The repaired rule learns at a rate at which the published one is taught by the explosion."""
    corpus = load(None)
    bits = {}
    for policy in (name, f"{name}-published"):
        run = Run(policy, BY_NAME[policy].policy(1.0), corpus, seed=0)
        assert len(list(run.train(steps=30, lr=2.0))) == 30
        bits[policy] = np.mean(run.bits[-10:])
    assert bits[name] < 4.5
    assert bits[f"{name}-published"] > corpus.guessing_bits


def test_explains_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--policy", "help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(BY_NAME)
    assert all(line.endswith(BY_NAME[line.split()[0]].rule) for line in lines)


@pytest.mark.parametrize("name", ["adam", "", "ZClip"])
def test_refuses_an_unknown_name_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "--policy", name)
    names = ", ".join(BY_NAME)
    assert message == f"gradclip: --policy must be one of {names}, got {name!r}. --policy help explains them.\n"


def test_refuses_one_policy_and_all(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "--policy", "agc", "--all")
    assert message == "gradclip: --all trains with every policy. Leave out --policy, or --all.\n"
