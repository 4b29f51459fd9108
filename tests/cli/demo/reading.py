"""What tests of the demo read: its files, its pictures, its refusals; and runs to be shown."""

import csv
from pathlib import Path
from shlex import quote

import matplotlib.image
import numpy as np
import pytest
import torch

from gradclip.cli import main
from gradclip.cli.demo.text import Corpus
from gradclip.cli.demo.training import Run
from gradclip.policies import Policy
from gradclip.records import ClipRecord
from records.made import record

Step = tuple[ClipRecord, float, float]
"""What clipping did at a step, its loss in bits per character, and its norm."""

UNCLIPPED, CLIPPED = "without clipping", "with clipping"


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "steps.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def shows(picture: Path, color: str) -> bool:
    """Whether a picture has a line of this colour: some fifty pixels of it, or more."""
    pixels = matplotlib.image.imread(picture)[..., :3]
    wanted = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return int((np.abs(pixels - wanted).max(axis=-1) < 0.02).sum()) > 50


def last_lines(folder: Path, record: str, runs: int, files: str = "steps.csv, demo.png, report.html") -> list[str]:
    """What the demo prints last where so many runs were trained."""
    kept = "the record of the run" if runs == 1 else f"the records of {runs} runs"
    return [
        f"Written to the folder {folder}: {files} and {kept}.",
        f"To hear which threshold fits: gradclip advise {quote(str(folder / record))}",
    ]


def step(number: int, bits: float, norm: float, status: str = "ok") -> Step:
    return record(number, status=status), bits, norm


def trained(
    name: str,
    steps: list[Step],
    validation_bits: float,
    sample: str = "",
    ended: str = "",
    policy: Policy | None = None,
) -> Run:
    """A run of a hundred symbols that took some steps, and what is found out about it."""
    nothing = torch.empty(0, dtype=torch.int64)
    corpus = Corpus("a text", "".join(map(chr, range(100))), nothing, nothing)
    clips, bits, norms = map(list, zip(*steps, strict=True))
    run = Run(name, policy, corpus, seed=0, clips=clips, bits=bits, norms=norms, ended=ended)
    vars(run).update(validation_bits=validation_bits, sample=sample)
    return run


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must be refused: code 2, nothing on stdout, one line on stderr, which is returned."""
    code = main(["demo", *arguments])
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert printed.err.endswith("\n")
    assert len(printed.err.splitlines()) == 1
    return printed.err
