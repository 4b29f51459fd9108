"""Readers of recorded runs, whoever wrote them.

    file ─► kind ─► frames ─► rows ─► a frame ─► the rows that count ─► Series
            kinds   a format  rows    gather     order                  gather

A format is one module: it finds rows and columns of text or numbers. What follows is the same for all.

| format | told by | the norm is in |
|---|---|---|
| JSON Lines | objects, the first with a norm included | a field |
| tables: CSV, also as Weights & Biases or MLflow export it | text | a column |
| `trainer_state.json`, other documents of JSON | its name; `log_history`; an object over lines, or of lists | a field |
| text as trainers print it, in Docker's log too | numbers that have names, with a norm among them | a name |
| TensorBoard event files, and folders of them | their name, or how they begin | a tag |

The norm has one of the usual names, which `names.NORMS` lists, alone or in a folder (`train/grad_norm`), or the name
that is given. Steps that come again replace the earlier ones: a run that is resumed goes back. A file that holds a
second run, with another policy from the first step on, is an error.

Whatever is in a file, the outcome is a `Series` or a `ReadError` of one line.
"""

from os import PathLike
from pathlib import Path

from gradclip.analysis.reading.error import ReadError, said
from gradclip.analysis.series import Series
from gradclip.extras import how_to_install, missing

__all__ = ["ReadError", "read_series"]

PACKAGES = ("polars", "numpy")
"""What reads, and what its columns become tensors through."""


def read_series(
    path: str | PathLike[str], *, column: str | None = None, run: str | None = None, size: int | None = None
) -> Series:
    r"""Read a recorded run.

    A file of any size is read in pieces. Only the columns that are returned stay in memory, and norms of single
    parameters for as many steps as about 250 000 norms fill. (A `trainer_state.json` is read as a whole.)

    Args:
        path: JSON Lines, a table, printed text, a `trainer_state.json`, an event file, or the folder of a run with one
            of the last two.
        column: The column, field or tag of the norm, if it has no usual name or several have one. You may leave out the
            folder, the run of Weights & Biases, and the case, if the name is clear without them.
        run: The run, if a table holds several, one below another; or the group, if records of several clippers are in
            one file.
        size: How many bytes to read of a file of lines that is still being written, up to the end of a line; by default
            all.

    Returns:
        The run: its steps increase, and `remarks` say what was left out.

    Raises:
        ReadError: If the file cannot be read, with the file, the line and what to do; a `ValueError`.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from gradclip.analysis.reading import read_series
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "run.csv")
        ...     _ = path.write_text("step,grad_norm,loss\n1,2.5,0.7\n2,nan,0.6\n")
        ...     series = read_series(path)
        >>> series.norms, series.events[0].step
        (tensor([2.5000,    nan], dtype=torch.float64), 2)
    """
    file = Path(path)
    if (package := missing(*PACKAGES)) is not None:  # gradclip needs torch alone
        raise ReadError(file, f"reading it needs {package}: {how_to_install('report')}")
    from gradclip.analysis.reading.gather import series_of  # noqa: PLC0415

    with said(file):
        if "\0" in str(file):
            raise FileNotFoundError  # as for any other name that no file can have
        return series_of(file, column, run, size)
