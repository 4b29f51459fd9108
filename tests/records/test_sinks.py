"""Sinks that hand records on: to memory, to TensorBoard, and by one line to the loggers that people have."""

import importlib
import math
import re
import sqlite3
import sys
import threading
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gradclip import ClipRecord, GradClipper, patch
from gradclip.policies import FixedNorm
from gradclip.records import JSONLines, Memory, Sink, TensorBoard
from records.made import record

NORMS = [5.0, 0.5, math.inf, 2.0]


def clip_with(*sinks: Sink) -> None:
    """Clip gradients of the norms above to 1, one of which is skipped."""
    p = nn.Parameter(torch.zeros(1))
    clipper = GradClipper([p], FixedNorm(1.0, eps=0.0), sinks=sinks)
    for norm in NORMS:
        p.grad = torch.tensor([norm])
        clipper.clip()


CURVES = {
    "gradclip/total_norm": [(1, 5.0), (2, 0.5), (4, 2.0)],
    "gradclip/total_norm_after": [(1, 1.0), (2, 0.5), (4, 1.0)],
    "gradclip/threshold": [(1, 1.0), (2, 1.0), (4, 1.0)],
    "gradclip/coefficient": [(1, 0.2), (2, 1.0), (3, 1.0), (4, 0.5)],
    "gradclip/clipped": [(1, 1.0), (2, 0.0), (3, 0.0), (4, 1.0)],
    "gradclip/skipped": [(1, 0.0), (2, 0.0), (3, 1.0), (4, 0.0)],
}
"""What every logger should show of it: each curve with its steps."""


def curves(points: list[tuple[int, dict[str, float]]]) -> dict[str, list[tuple[int, float]]]:
    """Points by their curve."""
    tags = dict.fromkeys(tag for _, numbers in points for tag in numbers)
    return {tag: [(step, numbers[tag]) for step, numbers in points if tag in numbers] for tag in tags}


def test_memory_keeps_the_last() -> None:
    """All, or as many as it may."""
    every, some = Memory(), Memory(maxlen=2)
    clip_with(every, some)
    assert [x.step for x in every.records] == [1, 2, 3, 4] and list(some.records) == list(every.records)[2:]
    assert repr(some) == "Memory(2 records)"


def test_the_curves_of_tensorboard() -> None:
    """What is not finite leaves a gap."""
    points: list[tuple[int, dict[str, float]]] = []
    writer = types.SimpleNamespace(add_scalar=lambda tag, number, step: points.append((step, {tag: number})))
    clip_with(TensorBoard(writer))
    assert curves(points) == CURVES


def test_a_writer_that_is_none() -> None:
    with pytest.raises(TypeError, match=r"`TensorBoard\(writer=\.\.\.\)` must have `add_scalar`, got str\. Pass a"):
        TensorBoard("runs/1")  # type: ignore[arg-type]


def test_the_files_of_tensorboard(tmp_path: Path) -> None:
    """As TensorBoard reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        tensorboard = pytest.importorskip("torch.utils.tensorboard")
        events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    writer = tensorboard.SummaryWriter(str(tmp_path))
    clip_with(TensorBoard(writer))
    writer.close()
    found = events.EventAccumulator(str(tmp_path)).Reload()
    for tag, points in CURVES.items():
        assert {x.step: x.value for x in found.Scalars(tag)} == pytest.approx(dict(points))


# One failing sink.


def test_a_sink_that_fails_stops_nothing(tmp_path: Path) -> None:
    """One warning, and the others have every record."""
    memory, file = Memory(), JSONLines(tmp_path / "run.jsonl")

    def fragile(record: ClipRecord) -> None:
        raise ConnectionError(record.step)

    with pytest.warns(UserWarning, match=r"failed at step 1 and is dropped: ConnectionError\(1\)") as caught:
        clip_with(memory, fragile, file)
    assert len(caught) == 1 and len(memory.records) == len(file.path.read_text().splitlines()) == len(NORMS)


def test_where_the_warning_is_an_error_the_others_have_the_record() -> None:
    """As under `python -W error`: the sinks after the one that failed, and who hears of all clippers."""
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.ones(2)

    def fragile(record: ClipRecord) -> None:
        raise ConnectionError(record.step)

    memory, heard = Memory(), Memory()
    with patch(sinks=[heard]), warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="is dropped"):
            GradClipper([p], sinks=[fragile, memory]).clip()
    assert [len(each.records) for each in (memory, heard)] == [1, 1]


def test_a_sink_that_fails_in_two_threads_at_once_is_dropped_once() -> None:
    """And no step of either fails for it."""
    both = threading.Barrier(2)

    def fragile(record: ClipRecord) -> None:
        both.wait(60.0)
        raise ConnectionError(record.step)

    def train(_: int) -> None:
        p = nn.Parameter(torch.ones(2))
        p.grad = torch.ones(2)
        torch.optim.SGD([p], lr=0.1).step()

    with patch(sinks=[fragile]), ThreadPoolExecutor(2) as pool, pytest.warns(UserWarning, match="dropped") as caught:
        list(pool.map(train, range(2)))
    assert len(caught) == 1


# One line for each logger, with a stand-in and with the real thing where it is installed.


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "records.md"

RECIPES = dict(
    re.findall(r"`(?:import (?=\w+`)|(?=run = ))(\w+)[^`]*` \| `(lambda .*)` \|", PAGE.read_text(encoding="utf-8"))
)
"""The sinks of the documentation, as they stand there, by the name of the logger in them."""


def recipe(name: str, logger: object) -> Sink:
    """The sink that the documentation has for a logger."""
    return eval(RECIPES[name], {name: logger})  # noqa: S307 -- our own page


@pytest.mark.parametrize("name", ["run", "mlflow", "trackio"])
def test_recipes(name: str) -> None:
    """Each logger gets the curves."""
    points: list[tuple[int, dict[str, float]]] = []

    def log(metrics: dict[str, float], step: int) -> None:
        points.append((step, metrics))

    clip_with(recipe(name, types.SimpleNamespace(log=log, log_metrics=log)))
    assert curves(points) == CURVES


def imported(name: str) -> Any:
    """A logger, if it is installed; what it warns of while it is imported is its own business."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            pytest.skip(f"{name} is not installed")


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline: nothing leaves the machine, and the summary has the last numbers."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = imported("wandb")
    run = wandb.init(mode="offline", dir=str(tmp_path), project="gradclip")
    clip_with(recipe("run", run))
    run.log({"end": 1.0}, step=len(NORMS) + 1)  # which ends the step before
    summary = dict(run.summary)
    run.finish()
    assert {tag: summary[tag] for tag in CURVES} == {tag: points[-1][1] for tag, points in CURVES.items()}
    assert list(tmp_path.rglob("*.wandb"))


@pytest.mark.filterwarnings("ignore")
def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a store of files."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = imported("mlflow")
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    with mlflow.start_run() as run:
        clip_with(recipe("mlflow", mlflow))
    client = mlflow.MlflowClient()
    for tag, points in CURVES.items():
        history = client.get_metric_history(run.info.run_id, tag)
        assert {x.step: x.value for x in history} == pytest.approx(dict(points))


@pytest.mark.filterwarnings("ignore")
def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its local database."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    if "trackio" in sys.modules:
        pytest.skip("trackio was imported before its folder was set")
    trackio = imported("trackio")
    trackio.init(project="gradclip", embed=False)
    clip_with(recipe("trackio", trackio))
    trackio.finish()
    (path,) = tmp_path.rglob("gradclip.db")
    with sqlite3.connect(path) as database:
        steps = [row[0] for row in database.execute("SELECT step FROM metrics ORDER BY step")]
    database.close()
    assert steps == [1, 2, 3, 4]


def test_a_group_is_set_by_one_line() -> None:
    """To tell the records of several clippers apart."""
    import dataclasses

    memory = Memory()
    clip_with(lambda record: memory(dataclasses.replace(record, group="generator")))
    assert {x.group for x in memory.records} == {"generator"} and record().group is None
