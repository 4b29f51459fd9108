"""A text that is quick to train on, a folder for results, and short samples."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradclip.cli.demo import training


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of words, long enough and quick to train on."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 7))) for _ in range(50)]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(" ".join(draw.choices(words, k=4_000)), encoding="utf-8")
    return path


@pytest.fixture(scope="module", autouse=True)
def short_samples() -> Iterator[None]:
    """Writing a thousand characters takes as long as thirty training steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "WRITTEN", 120)
        yield


@pytest.fixture
def numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a picture and a report, each of which takes as long as the rest."""
    for package in ("matplotlib", "plotly"):
        monkeypatch.setitem(sys.modules, package, None)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the demo trains: a second thread only makes so small a network slower."""
    with training.one_thread():
        yield


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "results"
