"""The charts over the steps: norms, clip rate, loss, and the thresholds that other policies would have set."""

from typing import Any

import plotly.graph_objects as go
from torch import Tensor

from gradclip.cli.report.events import Mark, marks_of
from gradclip.cli.report.figures.curves import MOST_POINTS, curve
from gradclip.cli.report.figures.detail import ROWS
from gradclip.cli.report.figures.style import BAD, CUT, INK, PALE, STEPS, figure, plain, run_colour
from gradclip.cli.report.findings import Finding, Findings

FEW_POINTS = 6_000
"""Points of a curve that nobody looks at closely."""


def norms(findings: Findings) -> go.Figure:
    """Return the norms before and after clipping, the thresholds, and marks where a step did not count."""
    traces: list[Any] = []
    for place, finding in enumerate(findings.each):
        traces += _norms(findings, place)
        if finding.events:
            traces.append(_marks(finding, place, run_colour(place) if findings.many else BAD))
    return _over_steps(
        findings,
        traces,
        log="log",
        yaxis={"title": {"text": "gradient norm"}, "rangemode": "tozero"},
        yaxis2={"overlaying": "y", "range": [0, 1], "fixedrange": True, "visible": False},
    )


def _norms(findings: Findings, place: int) -> list[go.Scatter]:
    run = findings.runs[place]
    series, many = run.series, findings.many
    colour, pale = run_colour(place), run_colour(place, clear=True) if many else PALE

    def known(row: int, values: Tensor | None, name: str, colour: str, dash: str, pale: str | None) -> list[go.Scatter]:
        if values is None or not values.isfinite().any():
            return []
        return curve(
            series.steps.numpy(),
            values.numpy(),
            name=f"{run.name}: {name}" if many else name,
            meta={"show": [ROWS[row], f"runs.{place}"], "detail": [place, row]},
            line={"width": 1.3, "color": colour, "dash": dash},
            pale=pale,
        )

    after = known(1, series.norms_after, "after clipping", colour, "dot" if many else "solid", pale)
    # Where there is a norm after clipping, that lies over the norm before, which then needs no medians.
    if after and not many:
        before = known(0, series.norms, "before clipping", CUT, "solid", None)
    else:
        before = known(0, series.norms, "before clipping" if many else "norm", colour, "solid", pale)
    return [*before, *after, *known(2, series.thresholds, "threshold", colour if many else INK, "dash", None)]


def _marks(finding: Finding, place: int, colour: str) -> go.Scatter:
    """Return marks at the foot of the chart: steps that did not count have no norm to stand at."""
    marks = marks_of(finding.events)
    return go.Scatter(
        x=[mark.first for mark in marks],
        y=[0.022] * len(marks),
        yaxis="y2",
        mode="markers",
        marker={"symbol": "x", "size": 7, "color": colour},
        cliponaxis=False,
        text=[plain(_said(mark)) for mark in marks],
        hovertemplate="%{text}<extra></extra>",
        meta={"show": [f"runs.{place}"]},
    )


def _said(mark: Mark) -> str:
    if mark.count == 1:
        return f"step {mark.first:,} {mark.what}"
    return f"{mark.count:,} steps from {mark.first:,} to {mark.last:,} did not count"


def rate(findings: Findings) -> go.Figure | None:
    """Return the share of the last steps that were clipped; None where that is not known of any run."""
    traces = [
        trace
        for place, finding in enumerate(findings.each)
        if finding.rates is not None
        for trace in curve(
            finding.run.series.steps.numpy(),
            100.0 * finding.rates,
            name=finding.run.name if findings.many else "steps clipped",
            meta={"show": [f"runs.{place}"]},
            line={"width": 1.5, "color": run_colour(place)},
            most=FEW_POINTS,
            hovertemplate="%{y:.3~g} %",
        )
    ]
    axis = {"title": {"text": "steps clipped"}, "range": [0, 102], "dtick": 25, "ticksuffix": " %"}
    return _over_steps(findings, traces, yaxis=axis) if traces else None


def loss(findings: Findings) -> go.Figure | None:
    """Return the losses; None where none are recorded."""
    traces = [
        trace
        for place, run in enumerate(findings.runs)
        if (losses := run.series.losses) is not None and losses.isfinite().any()
        for trace in curve(
            run.series.steps.numpy(),
            losses.numpy(),
            name=run.name if findings.many else "loss",
            meta={"show": [f"runs.{place}"]},
            line={"width": 1.3, "color": run_colour(place)},
            pale=run_colour(place, clear=True) if findings.many else PALE,
            most=2 * MOST_POINTS,
        )
    ]
    return _over_steps(findings, traces, yaxis={"title": {"text": "loss"}}) if traces else None


def policies(findings: Findings) -> go.Figure:
    """Return the thresholds of replayed policies, before the recorded norm."""
    series = findings.first.run.series
    replayed = len(findings.tried[0].replayed.thresholds)
    steps = series.steps[-replayed:].numpy()
    recorded = {"width": 1, "color": "var(--quiet-clear)"}
    traces = curve(steps, series.norms[-replayed:].numpy(), name="recorded norm", meta={"show": []}, line=recorded)
    for place, each in enumerate(findings.tried):
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


def _over_steps(findings: Findings, traces: list[Any], *, log: str | None = None, **layout: Any) -> go.Figure:
    meta = {"steps": findings.span, "log": log}
    return figure(traces, meta=meta, hovermode="x unified", xaxis=STEPS, **layout)
