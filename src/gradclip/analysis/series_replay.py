"""A policy over a recorded run, which may be long: in pieces, and all steps at once where each stands by itself."""

import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from itertools import islice, repeat

import torch

from gradclip.analysis.recording import ALONE, layout_of, read, totals
from gradclip.analysis.replay import Replay, Run, needs_each
from gradclip.analysis.series import Series
from gradclip.policies import FixedNorm, Layout, Normalize, Norms, Policy, SmoothNorm

ORDER = 2.0
"""The order of recorded norms."""

PIECE = 10_000
"""Steps that are played between two words about how far it is."""

FORGETFUL = (FixedNorm, SmoothNorm, Normalize)
"""Policies that learn nothing, and whose rule is the same for a tensor of norms as for one."""


def replay_series(policy: Policy, series: Series, *, watch: Callable[[int], object] | None = None) -> Replay:
    """Run a policy over a recorded run, by the code that runs in training; see `replay`.

    Args:
        policy: The rule.
        series: The run. Losses are those of the run. A policy with a bound for each parameter sees these where their
            norms are known of all steps; else it sees one, which has the total norm.
        watch: Called now and then with the number of steps played since the last call.

    Returns:
        What the policy did.

    Raises:
        ValueError: If it needs more than norms of order 2, as `replay` says.

    Example:
        >>> import torch
        >>> from gradclip.analysis.series import Series
        >>> from gradclip.analysis.series_replay import replay_series
        >>> from gradclip.policies import FixedNorm
        >>> replay_series(FixedNorm(1.0), Series("run", torch.arange(4), torch.tensor([0.5, 2.0, 0.9, 0.1])))
        Replay(4 steps, 25.0% clipped, 0.0% skipped, largest norm 2 before and 1 after)
    """
    each = needs_each(policy, ORDER)
    if isinstance(policy, FORGETFUL) and not each:
        return _at_once(policy, series)
    layout, steps = _steps(series, each=each)
    run = Run(policy, layout)
    pieces: list[Replay] = []
    while not pieces or len(pieces[-1]) == PIECE:
        pieces.append(run.play(islice(steps, PIECE)))
        if watch is not None:
            watch(len(pieces[-1]))
    return Replay(
        **{field.name: torch.cat([getattr(piece, field.name) for piece in pieces]) for field in fields(Replay)}
    )


def knows_each(series: Series) -> bool:
    """Whether the norms of single parameters are known of all steps."""
    return len(series.each) == len(series) and [step for step, _ in series.each] == series.steps.tolist()


def _steps(series: Series, *, each: bool) -> tuple[Layout, Iterable[Norms]]:
    losses = None if series.losses is None else series.losses.tolist()
    if each and knows_each(series):
        layout, steps = read([norms for _, norms in series.each], None, losses, ORDER, each=True)
        return layout, iter(steps)
    layout = layout_of(ALONE)
    known = repeat(None) if losses is None else losses
    return layout, totals(series.norms.tolist(), layout, ORDER, losses=known, each=each)


def _at_once(policy: Policy, series: Series) -> Replay:
    layout, norms, finite = layout_of(ALONE), series.norms.to(torch.float64), series.finite
    decision, _ = policy.decide(Norms(layout, ORDER, norms), policy.init(layout))
    coef = torch.as_tensor(decision.coef, dtype=torch.float64).expand_as(norms)
    threshold = torch.as_tensor(decision.threshold, dtype=torch.float64)
    return Replay(
        norms=norms,
        norms_after=torch.where(finite, norms * coef, math.nan),
        thresholds=torch.where(finite, threshold, math.nan),
        clipped=finite & (coef < 1.0),
        skipped=~finite,
    )
