"""What columns are called: what is read, its usual names, and how a column is chosen among those that a file has."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from os import PathLike
from typing import NamedTuple, TypeAlias, final

from gradclip.analysis.reading.error import NoNormError, ReadError, listed, shown
from gradclip.result import Status

Fields: TypeAlias = dict[str, str]
"""The names of columns by what is read from them: `"norms"`, and what is there of `FIELDS`."""


@final
class Field(NamedTuple):
    """What is read.

    Attributes:
        kind: `int` for whole numbers, `float` for any, `str` for text, `dict` for objects, `list` for lists.
        names: What it is usually called, in the order in which these are tried.
    """

    kind: type
    names: tuple[str, ...]


BEFORE = ("before", "before_clip", "before_clipping", "pre_clip", "preclip", "pre_clipping", "unclipped", "raw")
"""What is said of a norm before clipping, in front of it or behind it."""


def _and_by_step(*names: str) -> tuple[str, ...]:
    """Return names, and these as Lightning writes them where it keeps a mean over the epoch too."""
    return *names, *(f"{name}_step" for name in names)


NORMS = _and_by_step(
    *("total_norm", *(f"grad_norm_{word}" for word in BEFORE), *(f"{word}_grad_norm" for word in BEFORE)),
    *("grad_norm", "gradient_norm", "grads_norm", "global_norm", "global_grad_norm", "total_grad_norm"),
    *("grad_norm_total", "grad_2_0_norm_total", "gnorm", "gradnorm", "l2_grads", "grad_gnorm", "l2_norm_grad_global"),
    *("gradients_default_optimizer_global_norm", "gradients_norm", "grad_global_norm", "grads_global_norm"),
)
"""Usual names of the norm before clipping, alone or in a folder; alone it may be called `norm` as well. Those that say
that it is the one before come before those that may also be of the one after it."""

OTHERS = re.compile(r"^(?!.*grad)(?:.*[^a-z])?(?:clipped|max|param(?:eter)?s?|weights?|updates?|activations?)(?![a-z])")
"""What may have a norm that is not that of the gradients."""

PART = re.compile(r"[/.]\d+[/.]")
"""One of several layers: its norm is not that of the whole, also where it alone was written."""

FIELDS = {
    "norms": Field(float, (*NORMS, "norm")),
    "steps": Field(
        int,
        (
            *("global_step", "step", "_step", "steps", "iteration", "iter", "num_updates", "update", "current_steps"),
            *("training_iteration", "global_step_max_steps"),
        ),
    ),
    "norms_after": Field(float, ("total_norm_after",)),
    "thresholds": Field(float, ("threshold",)),
    "losses": Field(float, _and_by_step("loss", "train_loss", "training_loss", "lm_loss", "total_loss")),
    "lrs": Field(float, ("lr", "learning_rate")),
    "times": Field(float, ("time", "_timestamp", "timestamp", "wall_time")),
    "status": Field(str, ("status",)),
    "clipped": Field(float, ("clipped",)),
    "skipped": Field(float, ("skipped",)),
    "epochs": Field(float, ("epoch",)),
    "policy": Field(str, ("policy",)),
    "optimizer": Field(str, ("optimizer", "optim")),
    "run": Field(str, ("run", "run_id", "run_name", "seed", "split")),
    "group": Field(str, ("group",)),
    "metric": Field(str, ("key", "metric", "tag", "variable", "metric_name")),
    "each": Field(dict, ("norms",)),
    "worst": Field(list, ("worst",)),
    "nonfinite": Field(dict, ("nonfinite",)),
}
"""What is read. A metric says what the number beside it is of, where that is called `value`, as MLflow exports it."""

FLAGS = ("clipped", "skipped")
"""Numbers that stand for a status where there is none: 1.0 for yes."""

STATUSES = (*(status.value for status in Status), "skipped")
"""What a status may be: the last is that of a logger that keeps numbers alone."""

SKIPPED = tuple(status for status in STATUSES if status.startswith("skipped"))
"""The statuses of steps that did not happen."""

UNNAMED = "all parameters"
"""The group of records that have none: as a rule, of a clipper of all parameters."""

ONE_TAG = ("wall_time", "step", "value")
"""What TensorBoard's page offers of one tag, whose name the file has alone."""

BESIDE = {name for role in ("steps", "times", "epochs") for name in FIELDS[role].names}
"""What may stand beside the numbers of one tag."""

ANY = None
"""A folder that may have any name. What stands before a slash or a point in a name is a folder here."""

LONGEST = 250
"""Characters of a name."""

NORMS_IN_ORDER = (
    *(("", name) for name in FIELDS["norms"].names),
    *((folder, name) for folder in ("train", "gradclip", ANY) for name in NORMS),
)
"""Folders and names of the norm, in the order in which they are tried."""


def choose(columns: Sequence[str], wanted: str | None, path: str | PathLike[str], kind: str = "column") -> Fields:
    """Choose the columns to read.

    A name is compared without respect to case, and with `-` and blanks as `_`; so are slashes and points, or what
    stands before one is a folder. What stands before ` - ` is the name of a run, as Weights & Biases puts it. The norm
    is the first of `NORMS_IN_ORDER`: a name alone, else after `train/`, else after `gradclip/`, else after any other
    folder but those of other things. The rest is looked for in the folder of the norm, alone, and after `train/`, and
    never in another run.

    Args:
        columns: The names that there are.
        wanted: The name of the column of the norm, or None to try the usual ones.
        path: The file, for messages.
        kind: What a column is called in such a file.

    Returns:
        The fields.

    Raises:
        ReadError: If no column, or several, may be meant.
    """
    norm = norms_among(columns, wanted)
    advice = f"Name the {kind} of the norm with column= (on the command line: --column)."
    if not norm:
        missing = f"no {kind} looks like a gradient norm" if wanted is None else f"there is no {kind} {shown(wanted)}"
        raise NoNormError(path, f"{missing}; there are: {listed(columns) or 'none'}. {advice}")
    if len(norm) > 1:
        raise ReadError(path, f"several {kind}s may be the norm: {listed(norm)}. {advice}")
    fields = {"norms": norm[0]}
    run, folder, word = _parts(norm[0])
    for role, field in FIELDS.items():
        if role in fields or (role == "metric" and word != "value"):
            continue
        near = [name for name in columns if name not in fields.values() and _parts(name)[0] in (run, "")]
        folders = (folder, "", "train", *((ANY,) if role == "steps" else ()))
        if found := _usual(near, [(place, name) for place in folders for name in field.names]):
            fields[role] = found[0]
    return fields


def norms_among(columns: Sequence[str], wanted: str | None = None) -> list[str]:
    """Return the columns that may be the norm, of which there should be one."""
    if wanted is not None:
        return _meant(columns, wanted)
    words = {_parts(column)[2] for column in columns} - {""} - BESIDE
    is_value = words == {"value"} or bool(_usual(columns, [("", name) for name in FIELDS["metric"].names]))
    whole = [
        column for column in columns if not OTHERS.match(name := "/".join(_parts(column)[1:])) and not PART.search(name)
    ]
    return _usual(whole, NORMS_IN_ORDER) or (_meant(columns, "value") if is_value else [])


def may_be_of_use(column: str, wanted: str | None) -> bool:
    """Say whether a column of numbers may be chosen, whatever the others are."""
    words = {name for field in FIELDS.values() if field.kind is float for name in field.names}
    wanted_words = set() if wanted is None else {_parts(wanted)[2]}
    return _parts(column)[2] in wanted_words or any(word in words for _, word in readings(column))


def _usual(columns: Sequence[str], places: Iterable[tuple[str | None, str]]) -> list[str]:
    """Return the columns that answer to the first place and name that any answers to."""
    called: dict[tuple[str | None, str], dict[str, None]] = {}
    for column in columns:
        for folder, word in readings(column):
            for place in (folder, ANY):
                called.setdefault((place, word), {})[column] = None
    return next((list(called[place]) for place in places if place in called), [])


def _meant(columns: Sequence[str], wanted: str) -> list[str]:
    """Return the column of this name; else those that differ in case, in the run, or in the folder alone."""
    if wanted in columns:
        return [wanted]
    parts = _parts(wanted)
    said = next((place for place, part in enumerate(parts) if part), len(parts) - 1)
    for first in range(said + 1):
        if found := [column for column in columns if _parts(column)[first:] == parts[first:]]:
            return found
    return []


def _parts(column: str) -> tuple[str, str, str]:
    """Return the run, the folder and the last word of a name."""
    run, _, rest = column.rpartition(" - ")
    folder, _, last = rest.strip().lower().replace("-", "_").replace(" ", "_").rpartition("/")
    return run, folder, last


@lru_cache(maxsize=1024)
def readings(column: str) -> tuple[tuple[str, str], ...]:
    """Return folders with what stands in them, for each way to part a name: `grad/norm` is `grad_norm` as well."""
    _, folder, last = _parts(column)
    name = f"{folder}/{last}" if folder else last
    if len(name) > LONGEST:  # a text, of which no part is looked at
        return (("", name),)
    ends = [0, *(place + 1 for place, sign in enumerate(name) if sign in "/.")]
    return tuple((name[: max(end - 1, 0)], name[end:].replace("/", "_").replace(".", "_")) for end in ends)
