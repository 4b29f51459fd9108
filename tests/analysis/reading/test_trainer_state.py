"""The log of the Trainer of transformers."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from analysis.reading.files import refusal
from gradclip.analysis.reading import read_series, trainer_state

HISTORY: list[dict[str, Any]] = [
    {"epoch": 0.1, "grad_norm": 1.5, "learning_rate": 5e-05, "loss": 2.5, "step": 10},
    {"epoch": 0.2, "grad_norm": math.nan, "learning_rate": 4e-05, "loss": 0.0, "step": 20},
    {"epoch": 0.2, "eval_loss": 2.25, "eval_runtime": 1.5, "step": 20},
    {"epoch": 0.3, "grad_norm": 3, "learning_rate": 3e-05, "loss": 2.0, "step": 30},
    {"epoch": 0.3, "step": 30, "total_flos": 1e15, "train_loss": 2.1},
]


def write(folder: Path, history: object, name: str = "trainer_state.json", indent: int | None = 2) -> Path:
    path = folder / name
    state = {"best_metric": None, "epoch": 0.3, "global_step": 30, "log_history": history, "max_steps": 30}
    path.write_text(json.dumps(state, indent=indent), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["trainer_state.json", "copy of state.json", "state.txt"])
@pytest.mark.parametrize("indent", [2, None])
def test_what_the_trainer_logs(tmp_path: Path, name: str, indent: int | None) -> None:
    series = read_series(write(tmp_path, HISTORY, name, indent))
    assert series.steps.tolist() == [10, 20, 30]
    assert series.norms.tolist() == pytest.approx([1.5, math.nan, 3.0], nan_ok=True)
    assert series.losses is not None and series.losses.tolist() == [2.5, 0.0, 2.0]
    assert series.lrs is not None and series.lrs.tolist() == [5e-05, 4e-05, 3e-05]
    assert [(event.step, event.status) for event in series.events] == [(20, "nonfinite")]
    assert series.remarks == (trainer_state.ASKED, "2 of 5 rows have no norm and are left out.")


def test_a_list_of_entries_alone(tmp_path: Path) -> None:
    path = tmp_path / "log_history.json"
    path.write_text(json.dumps(HISTORY))
    assert read_series(path).steps.tolist() == [10, 20, 30]


@pytest.mark.parametrize("indent", [2, None])
def test_a_history_that_has_a_list_for_each_name(tmp_path: Path, indent: int | None) -> None:
    """What is no list is no column; a list may be shorter."""
    path = tmp_path / "history.json"
    columns = {"step": [10, 20, 30], "grad_norm": [1.5, 2.5, 0.5], "loss": [0.75, 0.5], "note": [None, "x", {}]}
    path.write_text(json.dumps({**columns, **({"epochs": 3} if indent else {})}, indent=indent))
    series = read_series(path)
    assert (series.steps.tolist(), series.norms.tolist()) == ([10, 20, 30], [1.5, 2.5, 0.5])
    assert series.losses is not None and series.losses.tolist() == pytest.approx([0.75, 0.5, math.nan], nan_ok=True)
    assert series.remarks == ()  # it is no Trainer's
    path.write_text(json.dumps({"grad_norm": [1.5, 2.5]}))
    assert read_series(path).steps.tolist() == [1, 2]


@pytest.mark.parametrize("indent", [2, None])
def test_the_points_of_a_tag(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "run.json"
    points = [[1.7e9, 10, 1.5], [1.7e9 + 1, 20, "NaN"], [1.7e9 + 2, 30, 0.5]]
    path.write_text(json.dumps(points, indent=indent))
    series = read_series(path)
    assert series.steps.tolist() == [10, 20, 30]
    assert series.norms.tolist() == pytest.approx([1.5, math.nan, 0.5], nan_ok=True)
    assert series.times is not None and series.times.tolist() == [1.7e9, 1.7e9 + 1, 1.7e9 + 2]
    assert series.remarks == ()
    path.write_text(json.dumps([*points, [1, 2]]))
    assert refusal(path).startswith("log_history entry 4: the entry is no object.")


def test_the_folder_of_a_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, HISTORY)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 100)
    assert len(read_series(tmp_path)) == 3


def test_another_field(tmp_path: Path) -> None:
    assert read_series(write(tmp_path, HISTORY), column="loss").norms.tolist() == [2.5, 0.0, 2.0]


def test_a_trainer_that_logged_no_norm(tmp_path: Path) -> None:
    history = [{key: value for key, value in entry.items() if key != "grad_norm"} for entry in HISTORY]
    assert refusal(write(tmp_path, history)).startswith(
        "no field looks like a gradient norm; there are: 'epoch', 'learning_rate', 'loss', 'step', 'eval_loss'"
    )


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (None, "there is no list log_history in it."),
        ({}, "there is no list log_history in it."),
        ([], "no field looks like a gradient norm; there are: none."),
        ([1], "log_history entry 1: the entry is no object. Delete it."),
        ([HISTORY[0], "x"], "log_history entry 2: the entry is no object."),
        (
            [HISTORY[0], {"step": 11, "grad_norm": "abc"}],
            "log_history entry 2: 'grad_norm' must be a number, got 'abc'.",
        ),
        ([HISTORY[0], {"step": 11, "grad_norm": -1}], "log_history entry 2: a norm must be >= 0, got -1."),
        ([HISTORY[0], {"step": 10**30, "grad_norm": 1}], "log_history entry 2: 'step' must be the whole number of a"),
        (
            [HISTORY[0], {"grad_norm": 1}],
            "log_history entry 2: 'step' must be the whole number of a step, got nothing.",
        ),
    ],
)
def test_histories_that_are_refused(tmp_path: Path, history: object, message: str) -> None:
    assert refusal(write(tmp_path, history)).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{\n  "log_history": [\n    {"step": 1, "grad',
            "line 3: the file is not JSON from here on (Unterminated string",
        ),
        (b'{\n  "log_history": "\xff"}', "line 2: the line is not UTF-8. Correct it."),
        (b'{\n  "log_history": ' + b"[" * 100_000, "the file is nested too deeply"),
        (
            b'{\n  "log_history": ' + b"1" * 10_000 + b"}",
            "the file is nested too deeply, or holds a number of thousands",
        ),
        (b"17\n", "there is no list log_history in it."),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_bytes(content)
    assert refusal(path).startswith(message)


def test_a_file_that_is_too_large_to_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_state, "LARGEST", 100)
    assert refusal(write(tmp_path, HISTORY)).startswith("the file is larger than 512 MiB.")
