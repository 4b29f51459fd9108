"""The charts over the steps: norms, clip rate, loss, and the thresholds that other policies would have set."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from torch import Tensor

from gradclip.cli.events import described
from gradclip.cli.page.figures.curves import MOST_POINTS, curve
from gradclip.cli.page.figures.style import COLOURS, STEPS, figure, plain, run_colour
from gradclip.cli.page.run import Run, span_of, window_of

FEW_POINTS = 6_000
"""Points of a curve that nobody looks at closely."""

WIDE = 10.0
"""Medians that the largest loss may have on a linear scale, where all are above 0."""

MOST_MARKS = 3_000
"""Marks of steps that did not count; of more steps, every few have one."""


def norms(runs: Sequence[Run]) -> go.Figure:
    """Return the norms before and after clipping, the thresholds, and marks where a step did not count."""
    traces: list[Any] = []
    for place in range(len(runs)):
        traces += _norms(runs, place) + _marks(runs, place)
    return _over_steps(
        runs,
        traces,
        log="log",
        yaxis={"title": {"text": "gradient norm"}, "rangemode": "tozero"},
        yaxis2={"overlaying": "y", "range": [0, 1], "fixedrange": True, "visible": False},
    )


def _norms(runs: Sequence[Run], place: int) -> list[go.Scatter]:
    run, colour, pale = runs[place], run_colour(place), _pale(runs, place)
    series = run.series
    before = (series.norms, "before", "before clipping", colour, "solid", pale)
    after = (series.norms_after, "after", "after clipping", colour, "dot" if len(runs) > 1 else "solid", pale)
    threshold = (series.thresholds, "threshold", "threshold", colour if len(runs) > 1 else COLOURS["ink"], "dash", None)
    if len(runs) == 1 and _is_known(series.norms_after):  # which lies over the norm before: that needs no medians
        before = (series.norms, "before", "before clipping", COLOURS["cut"], "solid", None)
    elif len(runs) == 1:
        before = (series.norms, "before", "norm", colour, "solid", pale)
    traces: list[go.Scatter] = []
    for row, (values, box, name, colour, dash, pale) in enumerate((before, after, threshold)):
        if values is not None and _is_known(values):
            traces += curve(
                series.steps.numpy(),
                values.numpy(),
                name=f"{run.name}: {name}" if len(runs) > 1 else name,
                meta={"show": [box, f"runs.{place}"], "detail": [place, row]},
                line={"width": 1.3, "color": colour, "dash": dash},
                pale=pale,
            )
    return traces


def _is_known(column: Tensor | None) -> bool:
    return column is not None and bool(column.isfinite().any())


def _marks(runs: Sequence[Run], place: int) -> list[go.Scatter]:
    """Return marks at the foot of the chart: steps that did not count have no norm to stand at."""
    events = runs[place].events
    marked = events[:: 1 + len(events) // MOST_MARKS]
    marks = go.Scatter(
        x=[event.step for event in marked],
        y=[0.022] * len(marked),
        yaxis="y2",
        mode="markers",
        marker={"symbol": "x", "size": 7, "color": run_colour(place) if len(runs) > 1 else COLOURS["bad"]},
        cliponaxis=False,
        text=[plain(f"step {event.step:,} {described(event)}") for event in marked],
        hovertemplate="%{text}<extra></extra>",
        meta={"show": [f"runs.{place}"]},
    )
    return [marks] if events else []


def rate(runs: Sequence[Run]) -> go.Figure | None:
    """Return the share of the last steps that were clipped; None where that is not known of any run."""
    found = [run.rates(window_of(runs)) for run in runs]
    rates = [None if each is None else 100.0 * each for each in found]
    axis = {"title": {"text": "steps clipped"}, "range": [0, 102], "dtick": 25, "ticksuffix": " %"}
    return _of_each(runs, rates, axis, most=FEW_POINTS, hovertemplate="%{y:.3~g} %")


def loss(runs: Sequence[Run]) -> go.Figure | None:
    """Return the losses; None where none are recorded."""
    losses = [run.series.losses for run in runs]
    known = [each.numpy() if each is not None and _is_known(each) else None for each in losses]
    finite = np.concatenate([np.empty(0), *(each[np.isfinite(each)] for each in known if each is not None)])
    is_wide = len(finite) > 0 and finite.min() > 0.0 and finite.max() > WIDE * np.median(finite)
    axis = {"title": {"text": "loss"}, "type": "log" if is_wide else "linear"}
    return _of_each(runs, known, axis, dense=True, most=2 * MOST_POINTS)


def _of_each(
    runs: Sequence[Run],
    columns: Sequence[NDArray[Any] | None],
    axis: dict[str, Any],
    *,
    dense: bool = False,
    **style: Any,
) -> go.Figure | None:
    """Return a chart with a curve for each run; None where there is none.

    Args:
        runs: The runs.
        columns: What there is of each at its steps; None where there is nothing.
        axis: The vertical axis, whose title is the name of the curve of a single run.
        dense: Whether curves that cover more than they show have their medians over them.
        style: What else there is to say of the curves.
    """
    traces: list[go.Scatter] = []
    for place, (run, values) in enumerate(zip(runs, columns, strict=True)):
        if values is not None:
            traces += curve(
                run.series.steps.numpy(),
                values,
                name=run.name if len(runs) > 1 else axis["title"]["text"],
                meta={"show": [f"runs.{place}"]},
                line={"width": 1.4, "color": run_colour(place)},
                pale=_pale(runs, place) if dense else None,
                **style,
            )
    return _over_steps(runs, traces, yaxis=axis) if traces else None


def _pale(runs: Sequence[Run], place: int) -> str:
    """Return the colour of a curve that has its medians over it."""
    return run_colour(place, clear=True) if len(runs) > 1 else COLOURS["pale"]


def _over_steps(runs: Sequence[Run], traces: list[Any], *, log: str | None = None, **layout: Any) -> go.Figure:
    return figure(traces, meta={"steps": span_of(runs), "log": log}, hovermode="x unified", xaxis=STEPS, **layout)


def policies(runs: Sequence[Run]) -> go.Figure:
    """Return the thresholds of replayed policies, before the recorded norm."""
    run = runs[0]
    replayed = len(run.tried[0].replayed.thresholds)
    steps = run.series.steps[-replayed:].numpy()
    recorded = {"width": 1, "color": COLOURS["quiet"] + "66"}
    traces = curve(steps, run.series.norms[-replayed:].numpy(), name="recorded norm", meta={"show": []}, line=recorded)
    for place, each in enumerate(run.tried):
        traces += curve(
            steps,
            each.replayed.thresholds.numpy(),
            name=each.name,
            meta={"show": [f"policies.{place}"]},
            line={"width": 1.8, "color": run_colour(place), "dash": "dash" if each.fixed else "solid"},
            most=FEW_POINTS,
            connectgaps=True,
        )
    span = [int(steps[0]), max(int(steps[0]) + 1, int(steps[-1]))]
    axis = {"title": {"text": "threshold"}, "type": "log"}
    return figure(traces, meta={"steps": span}, hovermode="x unified", xaxis=STEPS, yaxis=axis)
