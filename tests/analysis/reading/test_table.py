"""Tables: what spreadsheets, dataframes and Weights & Biases make of a run."""

import math
from pathlib import Path

import pytest

from analysis.reading.files import refusal, same
from gradclip.analysis.reading import pieces, read_series, table

NAN, INF = math.nan, math.inf

WANDB = """"Step","calm-sun-1 - train/grad_norm","calm-sun-1 - train/grad_norm__MIN","calm-sun-1 - train/grad_norm__MAX"
"10","1.5","1.25","1.75"
"20","NaN","NaN","NaN"
"30","","",""
"40","0.5","0.5","0.5"
"""

TWO_RUNS = """"Step","a - b - train/grad_norm","a - b - train/loss","other - train/grad_norm","other - train/loss"
"1","1.5","7.0","3.5","9.0"
"2","2.5","6.0","",""
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.csv"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_an_export_of_weights_and_biases(path: Path) -> None:
    series = read_series(write(path, WANDB))
    assert series.steps.tolist() == [10, 20, 40]
    assert series.norms.tolist() == pytest.approx([1.5, NAN, 0.5], nan_ok=True)
    assert [event.step for event in series.events] == [20]
    assert series.remarks == ("1 of 4 rows have no norm and are left out.",)


def test_of_several_runs_in_an_export_one_is_named(path: Path) -> None:
    write(path, TWO_RUNS)
    for column in (None, "train/grad_norm", "grad_norm"):
        assert refusal(path, column) == (
            "several columns may be the norm: 'a - b - train/grad_norm', 'other - train/grad_norm'. "
            "Name the column of the norm with column= (on the command line: --column)."
        )
    series = read_series(path, column="other - train/grad_norm")
    assert (series.steps.tolist(), series.norms.tolist()) == ([1], [3.5])
    assert series.losses is not None and series.losses.tolist() == [9.0]
    series = read_series(path, column="a - b - train/grad_norm")
    assert series.losses is not None and series.losses.tolist() == [7.0, 6.0]


@pytest.mark.parametrize("above", ["", "a comment\n\n"])
@pytest.mark.parametrize("names", ["step loss grad_norm", "  step    loss   grad_norm", "# step loss grad_norm"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blanks_between_cells(path: Path, above: str, names: str, end: str) -> None:
    rows = ["1 0.5 1.5", "    2   0.25      nan", "3\t0.125\t2.5", ""]
    series = read_series(write(path, above + end.join([names, *rows])))
    assert series.steps.tolist() == [1, 2, 3]
    assert series.norms.tolist() == pytest.approx([1.5, NAN, 2.5], nan_ok=True)
    assert series.losses is not None and series.losses.tolist() == [0.5, 0.25, 0.125]


@pytest.mark.parametrize(
    "above", ["a word of the launcher, and another\n" * 3000, "step loss grad_norm\nof this run:\n\n"]
)
def test_the_names_are_found_below_much_else_and_what_looks_like_them(path: Path, above: str) -> None:
    series = read_series(write(path, f"{above}step loss grad_norm\n1 0.5 1.5\n2 0.25 2.5\n"))
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2], [1.5, 2.5])


def test_words_of_another_number_than_the_cells_are_no_names(path: Path) -> None:
    """As where the rows are numbered: nobody says which column is which."""
    write(path, "   step  grad_norm\n0     1        1.5\n1     2        2.5\n")
    assert refusal(path).startswith("no column looks like a gradient norm; there are: 'step grad_norm'.")


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_separators_and_ends_of_lines(path: Path, separator: str, end: str, mark: str) -> None:
    rows = [["Epoch", "Step", "Grad Norm", "Learning-Rate"], ["0", "1", "1.5", "0.5"], ["0", "2", "2.5", ""]]
    series = read_series(write(path, mark + end.join(separator.join(row) for row in rows) + end))
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2], [1.5, 2.5])
    assert series.lrs is not None and series.lrs.tolist() == pytest.approx([0.5, NAN], nan_ok=True)


def test_our_records_as_a_dataframe_writes_them(path: Path) -> None:
    text = "step,status,total_norm,total_norm_after,threshold,policy,group,time\n"
    text += '1,clipped,2.0,1.0,1.0,"chain(FixedNorm(1.0), ZClip())",,1.7e9\n'
    text += '2,skipped_nonfinite,,,1.0,"chain(FixedNorm(1.0), ZClip())",,1700000001.5\n'
    text += '3,ok,0.5,0.5,,"chain(FixedNorm(1.0), ZClip())",,1700000002\n'
    series = read_series(write(path, text))
    assert series.norms.tolist() == pytest.approx([2.0, NAN, 0.5], nan_ok=True)
    assert series.clipped is not None and series.clipped.tolist() == [True, False, False]
    assert series.skipped is not None and series.skipped.tolist() == [False, True, False]
    assert series.thresholds is not None and series.thresholds.tolist() == pytest.approx([1.0, 1.0, NAN], nan_ok=True)
    assert series.policy == "chain(FixedNorm(1.0), ZClip())"
    assert series.times is not None and series.times.tolist() == [1.7e9, 1.7e9 + 1.5, 1.7e9 + 2]
    assert [(event.step, event.status) for event in series.events] == [(2, "skipped_nonfinite")]


def test_our_curves_as_a_logger_exports_them(path: Path) -> None:
    text = "Step,gradclip/total_norm,gradclip/total_norm_after,gradclip/clipped,gradclip/skipped\n"
    text += "1,2.0,1.0,1.0,0.0\n2,,,0.0,1.0\n3,0.5,0.5,0.0,0.0\n4,,,,\n"
    series = read_series(write(path, text))
    assert series.norms.tolist() == pytest.approx([2.0, NAN, 0.5], nan_ok=True)
    assert series.clipped is not None and series.clipped.tolist() == [True, False, False]
    assert series.skipped is not None and series.skipped.tolist() == [False, True, False]
    assert [(event.step, event.status) for event in series.events] == [(2, "skipped")]


@pytest.mark.parametrize("cell", ["", "-", "--", "null", "None", "N/A", "NA", '""', " "])
def test_cells_without_a_number(path: Path, cell: str) -> None:
    series = read_series(write(path, f"step,grad_norm\n1,1.0\n2,{cell}\n3,3.0\n"))
    assert series.steps.tolist() == [1, 3]


@pytest.mark.parametrize(
    ("cell", "norm"),
    [
        ("nan", NAN),
        ("NaN", NAN),
        ("-nan", NAN),
        ("inf", INF),
        ("Infinity", INF),
        (" 2 ", 2.0),
        ("1e-3", 0.001),
        ("+.5", 0.5),
    ],
)
def test_cells_with_one(path: Path, cell: str, norm: float) -> None:
    series = read_series(write(path, f"step,grad_norm\n1,1.0\n2,{cell}\n"))
    assert series.norms.tolist() == pytest.approx([1.0, norm], rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("2,abc", "line 3: 'grad_norm' must be a number, got 'abc'. Put it right, or name another column"),
        ("2,1.5.2", "line 3: 'grad_norm' must be a number"),
        ("2,-1", "line 3: a norm must be >= 0, got -1."),
        ("2,-inf", "line 3: a norm must be >= 0, got -inf."),
        ("x,1", "line 3: 'step' must be the whole number of a step, got 'x'."),
        ("1.5,1", "line 3: 'step' must be the whole number of a step, got '1.5'."),
        (",1", "line 3: 'step' must be the whole number of a step, got nothing."),
        ("9223372036854775808,1", "line 3: 'step' must be the whole number of a step"),
        ("1" * 5000 + ",1", "line 3: 'step' must be the whole number of a step, got '111"),
    ],
)
def test_cells_that_are_refused(path: Path, row: str, complaint: str) -> None:
    assert refusal(write(path, f"step,grad_norm\n1,1.0\n{row}\n4,1.0\n")).startswith(complaint)


@pytest.mark.parametrize("blank", ["", "\n", '"several\nlines",,\n'])
def test_lines_are_counted_through_quotes_and_blanks(path: Path, blank: str) -> None:
    text = f"note,step,grad_norm\n{blank},1,1.0\nmore,2,oops\n"
    assert refusal(write(path, text)).startswith(f"line {3 + blank.count(chr(10))}: 'grad_norm' must be a number")


def test_cells_over_several_lines_and_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "SIZE", 100)
    rows = [
        f'{step},"a ""quoted"" note\nof {step} lines, {"x" * (step % 60)}\n",{step / 8}\n' for step in range(1, 200)
    ]
    series = read_series(write(path, "step,note,grad_norm\n" + "".join(rows)))
    assert series.norms.tolist() == [step / 8 for step in range(1, 200)]


def test_a_note_that_reads_like_a_log_makes_no_text_of_a_table(path: Path) -> None:
    text = "step,grad_norm,note\n1,1.5,\n2,2.5,before: grad norm 9.5 and loss: 3.5\n"
    assert read_series(write(path, text)).norms.tolist() == [1.5, 2.5]
    write(path, "metrics: loss, grad_norm, lr\nstep 1 loss 0.5 grad_norm 1.5\nstep 2 loss 0.5 grad_norm 2.5\n")
    assert read_series(path).norms.tolist() == [1.5, 2.5]


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\n\n"])
@pytest.mark.parametrize("size", [1, 10, 2**22])
def test_blank_lines_are_no_rows(path: Path, end: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the module csv writes them on Windows, where the file is opened without `newline`."""
    monkeypatch.setattr(pieces, "SIZE", size)
    rows = ["step,loss,grad_norm", "1,0.5,1.5", "2,0.5,2.5", "3,,", "4,0.5,x", ""]
    series = read_series(write(path, end.join([*rows[:4], ""])))
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2], [1.5, 2.5])
    assert series.remarks == ("1 of 3 rows have no norm and are left out.",)
    assert refusal(write(path, end.join(rows))).startswith("line 9: 'grad_norm' must be a number, got 'x'")


def test_many_rows_of_which_one_has_several_lines(path: Path) -> None:
    rows = "".join(f"{step},{step / 8},\n" for step in range(1, 20_002))
    series = read_series(write(path, f'step,grad_norm,note\n0,0,"of\ntwo"\n{rows}'))
    assert series.steps.tolist() == list(range(20_002))


@pytest.mark.parametrize("note", ["", '"a\nb"'])
def test_the_names_come_again_where_a_writer_went_on(path: Path, note: str) -> None:
    path.write_text(f"step,Grad Norm,note\n1,1.5,{note}\nstep,Grad Norm,note\n2,2.5,\n")
    series = read_series(path)
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2], [1.5, 2.5])
    assert series.remarks == ("1 of 3 rows have no norm and are left out.",)


def test_a_quote_that_is_not_closed_is_refused(path: Path) -> None:
    text = 'step,note,grad_norm\n1,"x",1.0\n2,"oops,1.0\n' + "3,x,1.0\n" * 50_000
    assert refusal(write(path, text)).startswith("line 3: the row cannot be read (field larger than field limit")


def test_polars_and_csv_read_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = WANDB + "".join(f'"{step}","{step / 16}","0","{step}"\n' for step in range(50, 5000)) + '"60","inf","",""\n'
    quick = read_series(write(path, text))
    monkeypatch.setattr(table, "_by_polars", lambda *_: None)
    assert same(read_series(path), quick)
    assert len(quick) == 14
    assert quick.norms[-1] == INF


def test_the_last_row_first(path: Path) -> None:
    series = read_series(write(path, "step,grad_norm\n" + "".join(f"{s},{s}.0\n" for s in range(9, 0, -1))))
    assert series.steps.tolist() == list(range(1, 10))
    assert series.norms.tolist() == [float(s) for s in range(1, 10)]
    assert series.remarks == ("The rows were not in the order of their steps and are sorted.",)


def test_rows_in_no_order_of_which_the_last_of_a_step_counts(path: Path) -> None:
    series = read_series(write(path, "step,grad_norm\n3,1\n1,2\n4,3\n2,4\n4,5\n1,6\n"))
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2, 3, 4], [6.0, 4.0, 1.0, 5.0])
    assert len(series.remarks) == 2


def test_a_torn_last_row(path: Path) -> None:
    series = read_series(write(path, "step,grad_norm,loss\n1,1.0,2.0\n2,1.0"))
    assert series.steps.tolist() == [1]
    assert series.remarks == ("Line 3 is torn, as where a writer is stopped, and left out.",)


def test_a_whole_last_row_needs_no_end(path: Path) -> None:
    series = read_series(write(path, "step,grad_norm,loss\n1,1.0,2.0\n2,1.0,2.0"))
    assert (series.steps.tolist(), series.remarks) == ([1, 2], ())


def test_rows_of_another_length(path: Path) -> None:
    series = read_series(write(path, "step,grad_norm,loss\n1,1.0\n2,2.0,3.0,4.0,5.0\n3\n4,4.0,1.0\n"))
    assert series.norms.tolist() == [1.0, 2.0, 4.0]


def test_a_table_without_steps(path: Path) -> None:
    series = read_series(write(path, "norm\n1.0\n2.0\n\n3.0\n"))
    assert (series.steps.tolist(), series.norms.tolist()) == ([1, 2, 3], [1.0, 2.0, 3.0])


def test_a_table_without_names_is_refused(path: Path) -> None:
    message = "line 1: the first line must name the columns, and holds numbers. Write their names above it."
    assert refusal(write(path, "1,0.5\n2,0.25\n")) == message


def test_text_of_another_encoding_beside_the_numbers(path: Path) -> None:
    path.write_bytes("step,größe,grad_norm\n1,süß,1.5\n2,,2.5\n".encode("latin-1"))
    assert read_series(path).norms.tolist() == [1.5, 2.5]


def test_a_table_of_nothing_but_names_is_refused(path: Path) -> None:
    assert refusal(write(path, "step,grad_norm\n")).startswith("there are no rows. Record the norm of each step")
    assert refusal(write(path, "step,grad_norm\n1,\n2,-\n")).startswith("none of 2 rows has a norm.")
