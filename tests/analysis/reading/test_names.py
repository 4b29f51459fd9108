"""Which column is taken for the norm, and for what stands beside it."""

from pathlib import Path

import pytest

from gradclip.analysis.reading.error import ReadError
from gradclip.analysis.reading.names import choose, readings

PATH = Path("run.csv")


def chosen(columns: list[str], wanted: str | None = None) -> str:
    return choose(columns, wanted, PATH)["norms"]


@pytest.mark.parametrize(
    ("columns", "norm"),
    [
        (["grad_norm", "total_norm"], "total_norm"),
        (["gradient_norm", "grad_norm"], "grad_norm"),
        (["train/grad_norm", "norm"], "norm"),
        (["gradclip/total_norm", "train/grad_norm"], "train/grad_norm"),
        (["actor/total_norm", "gradclip/grad_norm"], "gradclip/grad_norm"),
        (["epoch", "actor/grad_norm"], "actor/grad_norm"),
        (["Grad-Norm", "loss"], "Grad-Norm"),
        (["Gradient Norm"], "Gradient Norm"),
        (["grad_2.0_norm_total", "grad_2.0_norm/layer1"], "grad_2.0_norm_total"),
        (["my - run - train/grad_norm__MIN", "my - run - train/grad_norm"], "my - run - train/grad_norm"),
        (["gnorm", "wps"], "gnorm"),
        (["l2_norm/grad/global", "l2_norm/grad/layer1"], "l2_norm/grad/global"),
        (["grad/norm/total", "grad/norm/layer1"], "grad/norm/total"),
        (["train/l2_grads", "train/l2_params"], "train/l2_grads"),
        (["grad_norm", "grad_norm_before_clip"], "grad_norm_before_clip"),
        (["train/grad_norm", "train/grad_norm_unclipped"], "train/grad_norm_unclipped"),
        (["learning/grad_norm", "learning/raw_grad_norm"], "learning/raw_grad_norm"),
        (["grad_norm_epoch", "grad_norm_step"], "grad_norm_step"),
        (["grad_norm/encoder", "grad_norm/total"], "grad_norm/total"),
        (["grad/norm", "param/norm"], "grad/norm"),
        (["train.loss", "train.grad_norm"], "train.grad_norm"),
        (["params/global_norm", "grads/global_norm"], "grads/global_norm"),
        (["step", "timestamp", "value"], "value"),
    ],
)
def test_the_usual_names_in_their_order(columns: list[str], norm: str) -> None:
    assert chosen(columns) == norm


@pytest.mark.parametrize(
    ("columns", "wanted", "norm"),
    [
        (["grad_norm", "my norm"], "my norm", "my norm"),
        (["a/x", "b/x"], "b/x", "b/x"),
        (["run - a/x", "run - b/x"], "b/x", "run - b/x"),
        (["train/X", "y"], "x", "train/X"),
        (["x", "train/x"], "x", "x"),
        (["x", "X"], "x", "x"),
    ],
)
def test_a_name_that_is_given(columns: list[str], wanted: str, norm: str) -> None:
    assert chosen(columns, wanted) == norm


@pytest.mark.parametrize(
    ("columns", "wanted", "message"),
    [
        (["a", "b"], None, "run.csv: no column looks like a gradient norm; there are: 'a', 'b'. Name the column of"),
        ([], None, "run.csv: no column looks like a gradient norm; there are: none."),
        (["layers/norm"], None, "no column looks like a gradient norm"),
        (["params/global_norm", "weights/total_norm"], None, "no column looks like a gradient norm"),
        (["model.layers.0.grad_norm", "layer/3/grad_norm"], None, "no column looks like a gradient norm"),
        (["step", "value", "loss"], None, "no column looks like a gradient norm"),
        (["a"], "c", "run.csv: there is no column 'c'; there are: 'a'. Name the column of the norm with column="),
        (["a/x"], "b/x", "there is no column 'b/x'"),
        (["r - a/x"], "s - a/x", "there is no column 's - a/x'"),
        (["a/x", "b/x"], "x", "several columns may be the norm: 'a/x', 'b/x'. Name the column"),
        (["a/grad_norm", "b/grad_norm"], None, "several columns may be the norm: 'a/grad_norm', 'b/grad_norm'."),
        ([f"c{i}" for i in range(30)], None, "'c19' and 10 more. Name the column"),
        (["x" * 1000, "\n\x1b[31m"], None, f"'{'x' * 59}..., '\\n\\x1b[31m'. "),
    ],
)
def test_what_is_there_is_listed_where_it_is_not_clear(columns: list[str], wanted: str | None, message: str) -> None:
    with pytest.raises(ReadError) as caught:
        choose(columns, wanted, PATH)
    assert message in str(caught.value)
    assert str(caught.value).endswith("Name the column of the norm with column= (on the command line: --column).")


def test_what_stands_beside_the_norm() -> None:
    columns = ["loss", "train/loss", "eval/loss", "train/learning_rate", "lr", "train/global_step", "train/grad_norm"]
    assert choose(columns, None, PATH) == {
        "norms": "train/grad_norm",
        "steps": "train/global_step",
        "losses": "train/loss",
        "lrs": "train/learning_rate",
    }


def test_names_that_say_that_they_are_of_single_steps() -> None:
    columns = ["epoch", "train_loss_step", "train_loss_epoch", "grad_norm_step", "epoch_step", "step"]
    assert choose(columns, None, PATH) == {
        "norms": "grad_norm_step",
        "steps": "step",
        "losses": "train_loss_step",
        "epochs": "epoch",
    }


def test_a_text_with_many_points_is_no_name() -> None:
    """A cell may be of any length: its parts, all together, are as long as its square."""
    assert len(readings("a/" * 100 + "b")) == 101
    assert readings("a/" * 1_000_000) == (("", "a/" * 1_000_000),)


def test_no_column_is_read_as_two_things() -> None:
    assert choose(["step", "loss"], "loss", PATH) == {"norms": "loss", "steps": "step"}


def test_what_stands_beside_the_norm_is_not_of_another_run() -> None:
    columns = ["Step", "a - grad_norm", "b - loss", "b - grad_norm"]
    assert choose(columns, "a - grad_norm", PATH) == {"norms": "a - grad_norm", "steps": "Step"}
