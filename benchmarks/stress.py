"""A policy put to the test: norms as training makes them, spikes, bursts and lasting changes."""

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from gradclip.analysis.recording import ALONE, layout_of, totals
from gradclip.analysis.replay import Replay, Run, needs_each
from gradclip.policies import Policy
from gradclip.policies.policy import check_policies

CALM, NOISY = 0.1, 0.5
"""Standard deviations of the logarithm of normal norms, whose median is 1."""

NORMAL_STEPS = 2000
"""Steps of normal norms, which come before each event."""

CHANGED_STEPS = 1500
"""Steps after a rise, and steps of a decay."""

SPIKE, BURST, RISE, DECAY = 100.0, 10, 3.0, 10.0
"""How large a spike is, how many there are in a burst, how far norms rise, and how far they decay."""

TRIALS, BETWEEN_TRIALS = 20, 50
"""How often a burst is tried in the second half of the normal steps, and the steps between."""

JUDGED = 100
"""Steps after a rise that are judged together."""


@final
@dataclass(frozen=True)
class Stress:
    """What a policy makes of norms whose median is 1. *Held* is a step that is clipped or skipped.

    Attributes:
        held_calm: The share of 2000 normal steps that is held, where the logarithm of norms has a standard deviation of
            0.1.
        held_noisy: The same for 0.5.
        spike: What one norm of 100 becomes after calm steps, at most, in 21 trials; NaN where the step is skipped.
        tenth_spike: What the last of ten such norms in a row becomes, at most, in 21 trials.
        tenth_spike_noisy: The same after noisy steps.
        held_after_rise: The share of 1500 steps held after calm norms have risen threefold for good.
        unlock_steps: The number of steps after this rise until the rule is unlocked; None for never. It is from the
            first step let through, if of the 100 steps that begin with it the share let through is at least half of
            the share of calm steps let through.
        late_spike: What a norm of 1 becomes after calm norms have fallen tenfold, over 1500 steps: ten times the usual.
    """

    held_calm: float
    held_noisy: float
    spike: float
    tenth_spike: float
    tenth_spike_noisy: float
    held_after_rise: float
    unlock_steps: int | None
    late_spike: float


def stress(policy: Policy, *, seed: int = 0) -> Stress:
    """Put a policy to the test: is normal training left alone, and does the rule hold against what is not normal?

    A good rule holds few calm steps, lets out of each spike about what is usual, also of the tenth in a row and after a
    decay, and lets a lasting rise through after some tens of steps.

    Args:
        policy: The rule, made for norms of about 1: one of `gradclip.policies`, or your own. A finite `max_norm` does
            part of the work; with `math.inf` the rule itself is seen.
        seed: What the norms are drawn with.

    Returns:
        The figures. The model has one parameter, and norms are of the order that the policy measures.

    Raises:
        TypeError: If the policy is none.
        ValueError: If it needs more than norms; see `replay`.

    """
    check_policies("stress", (policy,))
    order = next((stage.norm_type for stage in policy.stages if stage.norm_type is not None), math.inf)
    each = needs_each(policy, order)
    layout = layout_of(ALONE)
    generator = torch.Generator().manual_seed(seed)
    calm, noisy = (_draw(NORMAL_STEPS, sd, generator) for sd in (CALM, NOISY))
    changed = _draw(CHANGED_STEPS, CALM, generator)
    fall = DECAY ** -(torch.arange(1, CHANGED_STEPS + 1) / CHANGED_STEPS).double()

    def play(run: Run, norms: Tensor) -> Replay:
        return run.play(totals(norms.tolist(), layout, order, each=each))

    def try_bursts(run: Run, norms: Tensor) -> tuple[float, Tensor]:
        """Play normal steps; return the share held, and the largest that becomes of each spike of a burst."""
        quiet = len(norms) - TRIALS * BETWEEN_TRIALS
        held: list[Tensor] = []
        bursts: list[Tensor] = []
        for piece in norms.split([quiet, *[BETWEEN_TRIALS] * TRIALS]):
            held.append(_held(play(run, piece)))
            bursts.append(play(run.branch(), torch.full((BURST,), SPIKE)).norms_after)
        left = torch.stack(bursts)
        most = left.nan_to_num(nan=-math.inf).amax(0)
        return torch.cat(held).mean().item(), torch.where(left.isnan().all(0), math.nan, most)

    run = Run(policy, layout)
    held_calm, after_calm = try_bursts(run, calm)
    held_noisy, after_noisy = try_bursts(Run(policy, layout), noisy)
    risen = _held(play(run.branch(), RISE * changed))
    decayed = play(run.branch(), torch.cat([fall * changed, torch.ones(1)]))
    return Stress(
        held_calm=held_calm,
        held_noisy=held_noisy,
        spike=after_calm[0].item(),
        tenth_spike=after_calm[-1].item(),
        tenth_spike_noisy=after_noisy[-1].item(),
        held_after_rise=risen.mean().item(),
        unlock_steps=_unlocked(risen, (1.0 - held_calm) / 2.0),
        late_spike=decayed.norms_after[-1].item(),
    )


def _draw(steps: int, sd: float, generator: torch.Generator) -> Tensor:
    return torch.randn(steps, dtype=torch.float64, generator=generator).mul(sd).exp()


def _held(replayed: Replay) -> Tensor:
    return (replayed.clipped | replayed.skipped).double()


def _unlocked(held: Tensor, least_free: float) -> int | None:
    free = 1.0 - held
    shares = free.unfold(0, JUDGED, 1).mean(1)
    unlocked = ((shares >= least_free) & (free[: len(shares)] > 0.0)).nonzero().flatten()
    return int(unlocked[0]) if len(unlocked) else None
