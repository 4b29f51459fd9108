"""Logs as programs leave them: whatever stands above the steps, before and behind them on a line, and in a column."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.reading.files import refusal
from gradclip.analysis.reading import read_series

Line = Callable[[int, float], str]

NORMS = [1.5, 2.25, 0.75, 1.0, 3.5]

SETTINGS = {"lr": 0.1, "model": {"name": "gpt2", "norm": "layernorm"}, "norm": "rms"}


def as_dict(step: int, norm: float) -> str:
    return str({"step": step, "loss": 0.5, "grad_norm": norm})


def as_json(step: int, norm: float) -> str:
    return json.dumps({"step": step, "loss": 0.5, "grad_norm": norm})


def as_pairs(step: int, norm: float) -> str:
    return f"step {step} | loss: 0.5 | grad_norm: {norm}"


def as_cells(step: int, norm: float) -> str:
    return f"{step},0.5,{norm}"


ABOVE = {
    "settings as JSON, dicts": (json.dumps(SETTINGS) + "\n", as_dict),
    "settings as JSON, pairs": (json.dumps(SETTINGS) + "\n", as_pairs),
    "two lines of settings, dicts": (json.dumps(SETTINGS) + "\n{}\n\n", as_dict),
    "settings over lines, dicts": (json.dumps(SETTINGS, indent=2) + "\n", as_dict),
    "settings over lines, JSON": (json.dumps(SETTINGS, indent=2) + "\n", as_json),
    "a banner, JSON": ("=== my run ===\n# a comment\n\n", as_json),
    "settings as YAML, pairs": ("lr: 0.1\nmodel:\n  name: gpt2\nmax_grad_norm: 1.0\nseed: 1\n", as_pairs),
    "a warning, pairs": ("/lib/x.py:12: FutureWarning: it will go\n  warn(\n", as_pairs),
    "a bar, dicts": ("  0%|      | 0/100 [00:00<?, ?it/s]\r", as_dict),
    "a comment, table": ("# lr=0.1, warm-up\nstep,loss,grad_norm\n", as_cells),
    "a warning with more commas, table": ("UserWarning: a, b, c, and d\n\nstep,loss,grad_norm\n", as_cells),
    "a mark, pairs": ("\ufeff", as_pairs),
}

STAMP = "2026-01-01 12:00:00"

LINES: dict[str, Line] = {
    "logging, dicts": lambda i, n: f"{STAMP},123 - INFO - {as_dict(i, n)}",
    "a stamp in brackets, blanks": lambda i, n: f"[{STAMP}] step {i} | loss 0.5 | grad_norm {n}",
    "logging, equals signs": lambda i, n: f"INFO:root:step={i} loss=0.5 grad_norm={n}",
    "rich": lambda i, n: f"[12:00:00] INFO     step {i} loss 0.5 grad norm {n}          train.py:42",
    "loguru": lambda i, n: f"{STAMP}.123 | INFO     | __main__:train:42 - step {i} | loss 0.5 | grad_norm {n}",
    "tqdm": lambda i, n: f" 10%|#  | {i}/5 [00:01<00:02, 2.3s/it, step={i}, loss=0.5, grad_norm={n}]",
    "torchtitan": lambda i, n: (
        f"[rank0]:[titan] {STAMP},123 - root - INFO - \x1b[31mstep: {i:2}  \x1b[32mloss:  0.5000  "
        f"\x1b[38;2;180;60;0mgrad_norm: {n:7.4f}  \x1b[33mmemory: 10.00GiB(12%)  \x1b[34mtps: 1,234\x1b[39m"
    ),
    "tensors": lambda i, n: f"step {i} loss tensor(0.5, device='cuda:0') grad_norm: tensor({n})",
    "dicts with numbers of NumPy": lambda i, n: f"{{'step': {i}, 'loss': tensor(0.5), 'grad_norm': np.float64({n})}}",
    "NeMo": lambda i, n: (
        f"Training epoch 0, iteration {i}/5 | lr: 1e-5 | global_step: {i} | loss: 0.5 | grad_norm: {n}"
    ),
    "NeMo-Automodel": lambda i, n: (
        f"{STAMP} | INFO | root | step {i} | epoch 0 | loss 0.5 | grad_norm {n} | tps 9.5(2/gpu)"
    ),
    "mmengine, epochs": lambda i, n: (
        f"2026/01/01 12:00:00 - mmengine - INFO - Epoch(train)  [1][{i:5d}/3757]  lr: 1.0e-02  eta: 1 day, 2:03:04  "
        f"time: 0.5  loss: 0.5  grad_norm: {n}"
    ),
    "mmengine, iterations": lambda i, n: f"INFO - Iter(train) [{i:5d}/160000]  lr: 1.0e-02  loss: 0.5  grad_norm: {n}",
    "DeepSpeed": lambda i, n: (
        f"[{STAMP},123] [INFO] [logging.py:96:log_dist] [Rank 0] step={i}, skipped=0, lr=[0.0001], "
        f"mom=[[0.9, 0.999]], loss=0.5, grad_norm={n}"
    ),
    "nanoGPT": lambda i, n: f"iter {i}: loss 0.5000, grad_norm {n}, time 12.34ms, mfu 1.23%",
    "fairseq": lambda i, n: (
        f"{STAMP} | INFO | train_inner | epoch 001:     {i} / 1000 loss=0.5, num_updates={i}, gnorm={n}, clip=100"
    ),
    "Composer": lambda i, n: f"[trace]: {{'trainer/global_step': {i}, 'train/loss': 0.5, 'l2_norm/grad/global': {n}}}",
    "Levanter": lambda i, n: f"{STAMP} - 0 - tracker - INFO - step: {i}, train/loss: 0.5, grad/norm/total: {n}",
    "a bar of so many per cent": lambda i, n: (
        f"Steps:  {20 * i}%|##   | {i}/5 [00:01<00:02,  2.3s/it, loss=0.5, grad_norm={n}]"
    ),
    "logfmt, quoted": lambda i, n: f'level=info step="{i}" loss="0.5" grad_norm="{n}"',
    "a dict that Python does not read": lambda i, n: f"{{'step': {i}, 'loss': 0.5, 'grad_norm': {n}, 'x': <X>}}",
    "a dict in a dict": lambda i, n: f"INFO {{'step': {i}, 'train': {{'loss': 0.5, 'grad_norm': {n}}}}}",
    "a step before a dict": lambda i, n: f"INFO step {i}: {{'loss': 0.5, 'grad_norm': {n}}}",
    "a step of so many": lambda i, n: str({"loss": 0.5, "grad_norm": n, "global_step/max_steps": f"{i}/3766"}),
    "a message in JSON": lambda i, n: json.dumps({"level": "INFO", "message": f"step {i} loss 0.5 grad_norm {n}"}),
    "JSON with a message": lambda i, n: "INFO " + json.dumps({"msg": "ok", "step": i, "loss": 0.5, "grad_norm": n}),
    "llm.c": lambda i, n: f"step {i:4d}/5 | loss 0.500000 (+0.54z)| norm {n} (-0.86z)| lr 4.29e-07 | 3085.23 ms",
    "lists of one": lambda i, n: f"step={i} loss=[0.5] grad_norm=[{n}]",
    "words before the names": lambda i, n: f"step {i}: mean train loss 0.5, mean grad norm {n}, max grad norm 99.0",
    "verl": lambda i, n: f"step:{i} - global_seqlen/min:123 - actor/loss:0.5 - actor/grad_norm:{n} - critic/loss:0.1",
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", ABOVE)
def test_what_stands_above_the_steps(tmp_path: Path, kind: str, end: str) -> None:
    above, line = ABOVE[kind]
    check(tmp_path / "train.log", above.replace("\n", end), line, end)


@pytest.mark.parametrize("kind", LINES)
def test_what_stands_around_the_numbers(tmp_path: Path, kind: str) -> None:
    check(tmp_path / "train.log", "", LINES[kind], "\n")


@pytest.mark.parametrize("kind", ["JSON", *LINES])
def test_lines_in_the_log_of_docker(tmp_path: Path, kind: str) -> None:
    """Each printed line is an object there, with those of the launcher before."""

    def logged(text: str) -> str:
        return json.dumps({"log": f"{text}\n", "stream": "stdout", "time": f"{STAMP}Z"}, separators=(",", ":"))

    line = {"JSON": as_json, **LINES}[kind]
    check(tmp_path / "0123-json.log", logged("loading, shard 1 of 9") + "\n", lambda i, n: logged(line(i, n)), "\n")


def check(path: Path, above: str, line: Line, end: str) -> None:
    path.write_bytes((above + end.join(map(line, range(1, 6), NORMS)) + end).encode())
    series = read_series(path)
    assert (series.steps.tolist(), series.norms.tolist(), series.remarks) == ([1, 2, 3, 4, 5], NORMS, ())
    assert series.losses is not None and series.losses.tolist() == [0.5] * 5


def test_a_line_of_settings_above_a_table(tmp_path: Path) -> None:
    for settings in ("# clipped at grad_norm=1.0\n", "grad_norm: 1.0\n", "# grad_norm=1.0\n# grad_norm=2.0\n"):
        check(tmp_path / "train.csv", f"{settings}step,loss,grad_norm\n", as_cells, "\n")


def test_a_table_for_each_step(tmp_path: Path) -> None:
    """As stable-baselines3 prints it: a bar stands between a name and its number."""
    rows = "".join(
        f"{'-' * 32}\n| time/            |            |\n|    fps           | 26         |\n"
        f"| train/           |            |\n|    grad_norm     | {norm:<10} |\n|    loss          | 20.1       |\n"
        for norm in NORMS
    )
    (tmp_path / "train.log").write_text(rows)
    assert read_series(tmp_path / "train.log").norms.tolist() == NORMS


def test_a_bar_that_is_drawn_twice_counts_once(tmp_path: Path) -> None:
    bars = [f"  {n}%|# | {i}/5 [00:01<00:02, grad_norm={n}]\r" for i, n in enumerate(NORMS, 1) for _ in range(2)]
    (tmp_path / "train.log").write_text("".join(bars))
    series = read_series(tmp_path / "train.log")
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2, 3, 4, 5], NORMS)


def test_lines_that_are_left_out_are_counted(tmp_path: Path) -> None:
    lines = ["grad_norm: 9.5", *(f"step {i} grad_norm: {n}" for i, n in enumerate((0.5, "1e400x", "?", 1.5), 1))]
    (tmp_path / "train.log").write_text("\n".join([*lines, ""]))
    series = read_series(tmp_path / "train.log")
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 4], [0.5, 1.5])
    assert series.remarks == (
        "Lines that name the norm but no number are left out: 2, the first of them line 3.",
        "Lines with a norm but no step are left out: 1, the first of them line 1.",
    )


@pytest.mark.parametrize(
    "text",
    [
        "iter 1: loss 2.5, time 12.34ms\niter 2: loss 2.25, time 12.34ms\n",
        "{'loss': 2.5, 'iter': 1}\n{'loss': 2.25, 'iter': 2}\n",
        "loading, please wait\n  0%|  | 0/9 [00:00<?, ?it/s]\r{'loss': 2.5, 'iter': 1}\n",
    ],
)
def test_text_without_a_norm_is_refused_with_the_names_in_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.log").write_text(text)
    refused = refusal(tmp_path / "train.log")
    assert refused.startswith("no number looks like a gradient norm; there are: ")
    assert "'loss'" in refused
    assert "'iter'" in refused


@pytest.mark.parametrize(
    ("written", "norm"),
    [
        *(("1,234.5", 1234.5), ("1,234", 1234.0), ("1e-5", 1e-5), ("inf", float("inf")), ("0.5.", 0.5), ("2,", 2.0)),
        *(("1.25K", 1250.0), ("-nan(ind)", float("nan")), ("1.5/2.0", 1.5)),
    ],
)
def test_numbers_in_text(tmp_path: Path, written: str, norm: float) -> None:
    (tmp_path / "train.log").write_text(
        f"step 1,000: grad_norm: {written} and more\nstep 2,000: grad_norm: {written}\n"
    )
    series = read_series(tmp_path / "train.log")
    assert series.steps.tolist() == [1000, 2000]
    assert series.norms.tolist() == pytest.approx([norm] * 2, nan_ok=True)


def test_a_norm_that_is_none_in_text(tmp_path: Path) -> None:
    """It is left out as in any other format, and that is said."""
    (tmp_path / "train.log").write_text("step 1 grad_norm: 0.5\nstep 2 grad_norm: None\nstep 3 grad_norm: 1.5\n")
    series = read_series(tmp_path / "train.log")
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 3], [0.5, 1.5])
    assert series.remarks == ("1 of 3 rows have no norm and are left out.",)


def test_a_column_of_another_name_in_text(tmp_path: Path) -> None:
    """A name that is given tells text from a table, as a usual one does."""
    (tmp_path / "train.log").write_text("step: 1 | gradient size: 2.5\nstep: 2 | gradient size: 1.5\n")
    assert read_series(tmp_path / "train.log", column="gradient size").norms.tolist() == [2.5, 1.5]


def test_several_norms_in_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text("step:1 - actor/grad_norm:0.5 - critic/grad_norm:1.5\n")
    assert refusal(tmp_path / "train.log").startswith("several numbers may be the norm: 'actor/grad_norm', 'critic/")
    assert read_series(tmp_path / "train.log", column="critic/grad_norm").norms.tolist() == [1.5]


def exported(*metrics: str) -> str:
    """A table of MLflow: a row for each number, and what it is of."""
    rows = [
        f"run,{metric},{number},{step},{1_700_000_000_000 + 1000 * step}"
        for step, norm in enumerate(NORMS, 1)
        for metric, number in [(metrics[0], norm), *((metric, -1.0) for metric in metrics[1:])]
    ]
    return "\n".join(["run_id,key,value,step,timestamp", *rows]) + "\n"


def test_metrics_of_mlflow(tmp_path: Path) -> None:
    """Of the numbers in the one column those of the norm are read; times are in milliseconds."""
    (tmp_path / "metrics.csv").write_text(exported("train/grad_norm", "reward"))
    series = read_series(tmp_path / "metrics.csv")
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2, 3, 4, 5], NORMS)
    assert series.times is not None and series.times.tolist() == [1.7e9 + step for step in range(1, 6)]
    assert series.remarks == ("5 of 10 rows have no norm and are left out.",)
    (tmp_path / "metrics.csv").write_text(exported("actor/grad_norm", "critic/grad_norm"))
    assert refusal(tmp_path / "metrics.csv").startswith(
        "several metrics may be the norm: 'actor/grad_norm', 'critic/grad_norm'. Write one to a file of its own."
    )


@pytest.mark.parametrize("name", ["tag", "variable"])
def test_a_row_for_each_number(tmp_path: Path, name: str) -> None:
    """As tbparse and the `melt` of pandas make tables."""
    rows = [
        {"step": i, name: tag, "value": x} for i, n in enumerate(NORMS, 1) for tag, x in [("t/gnorm", n), ("x", -1)]
    ]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cells = [",".join(map(str, row.values())) for row in rows]
    (tmp_path / "long.csv").write_text("\n".join([f"step,{name},value", *cells, ""]))
    for path in tmp_path.iterdir():
        series = read_series(path)
        assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2, 3, 4, 5], NORMS)


def test_a_metric_as_mlflow_keeps_it(tmp_path: Path) -> None:
    """A file of `mlruns`: times, numbers and steps without names, and the file is called as the metric."""
    lines = [f"{1_700_000_000_000 + 1000 * step} {norm} {step}\n" for step, norm in enumerate(NORMS, 1)]
    for name, column in (("grad_norm", None), ("Grad-Norm", None), ("size", "size"), ("grad size", "grad size")):
        (tmp_path / name).write_text("".join(lines))
        series = read_series(tmp_path / name, column=column)
        assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2, 3, 4, 5], NORMS)
        assert series.times is not None and series.times.tolist() == [1.7e9 + step for step in range(1, 6)]
    lines[3] = "1700000004000 a 4\n"
    (tmp_path / "grad_norm").write_text("".join(lines))
    assert refusal(tmp_path / "grad_norm").startswith("line 4: 'grad_norm' must be a number, got 'a'")
    (tmp_path / "loss").write_text("".join(lines))
    assert refusal(tmp_path / "loss").startswith("no column looks like a gradient norm")


def test_a_table_of_several_metrics_whose_names_are_no_head(tmp_path: Path) -> None:
    rows = [f"r,train,{tag},{i},{x}" for i, n in enumerate(NORMS, 1) for tag, x in (("loss", 0.5), ("grad_norm", n))]
    (tmp_path / "x.csv").write_text("\n".join(["run.name,kind,metric.name,step,value", *rows, ""]))
    assert read_series(tmp_path / "x.csv").norms.tolist() == NORMS
    (tmp_path / "x.csv").write_text("\n".join(["a,b,c,d,e", *rows, ""]))
    assert refusal(tmp_path / "x.csv").startswith("no column looks like a gradient norm; there are: 'a', 'b', 'c', ")


@pytest.mark.parametrize("rule", ["|---|---:|:---|", "|:-----:|-|--------|", "+-----+-----+-----+"])
def test_tables_that_are_drawn(tmp_path: Path, rule: str) -> None:
    """As in Markdown, or as databases print them."""
    rows = [f"| {step} | 0.5 | {norm} |" for step, norm in enumerate(NORMS, 1)]
    (tmp_path / "log.md").write_text("\n".join(["A run:", "", "| step | loss | grad_norm |", rule, *rows, ""]))
    series = read_series(tmp_path / "log.md")
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2, 3, 4, 5], NORMS)
    assert series.losses is not None and series.losses.tolist() == [0.5] * 5


def test_tables_of_loggers(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "epoch,grad_norm,step,train_loss,val_loss\n0,1.5,1,0.5,\n0,,1,,0.4\n0,2.5,2,0.5,\n"
    )
    series = read_series(tmp_path / "metrics.csv")
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2], [1.5, 2.5])
    (tmp_path / "history.csv").write_text(
        "epoch,accuracy,grad_norm,loss,val_loss\n0,0.5,1.5,0.5,0.6\n1,0.6,2.5,0.5,0.6\n"
    )
    assert read_series(tmp_path / "history.csv").norms.tolist() == [1.5, 2.5]
