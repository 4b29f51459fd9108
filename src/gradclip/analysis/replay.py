"""A policy over recorded norms: what it would have done."""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from gradclip.analysis.recorded import Recorded, refuse_policy
from gradclip.analysis.recording import Recording, read
from gradclip.numbers import Scalar
from gradclip.policies import Layout, Norms, Policy
from gradclip.policies.policy import check_policies
from gradclip.sending import on_the_host
from gradclip.stages import Stage, run
from gradclip.validation import check_norm_type


@final
@dataclass(frozen=True, eq=False)
class Replay:
    """What a policy did to recorded norms, step by step.

    Attributes:
        norms: The total norms before clipping: float64, of shape (steps,).
        norms_after: The total norms after clipping, of the same shape; NaN if the step is skipped, or if elements were
            limited and only the gradients could tell.
        thresholds: The thresholds: of shape (steps,), or (steps, P) for a policy with a threshold for each of P
            recorded parameters. NaN if the policy was not asked.
        clipped: Whether any gradient shrinks: bool, (steps,).
        skipped: Whether the step is skipped, because its norm is not finite or by the policy: bool, (steps,).
    """

    norms: Tensor
    norms_after: Tensor
    thresholds: Tensor
    clipped: Tensor
    skipped: Tensor

    @property
    def share_clipped(self) -> float:
        """The share of all steps that are clipped, in [0, 1]; NaN without steps."""
        return self.clipped.double().mean().item()

    @property
    def share_skipped(self) -> float:
        """The share of all steps that are skipped, in [0, 1]; NaN without steps."""
        return self.skipped.double().mean().item()

    @property
    def largest(self) -> float:
        """The largest finite norm before clipping; NaN if there is none."""
        return _largest(self.norms)

    @property
    def largest_after(self) -> float:
        """The largest known norm after clipping; NaN if there is none."""
        return _largest(self.norms_after)

    @property
    def longest_held(self) -> int:
        """The largest number of steps in a row that are clipped or skipped: many if a policy is stuck."""
        free = (~(self.clipped | self.skipped)).nonzero().flatten()
        edges = torch.cat([free.new_tensor([-1]), free, free.new_tensor([len(self.norms)])])
        return int(edges.diff().max()) - 1

    def __len__(self) -> int:
        return len(self.norms)

    def __repr__(self) -> str:
        return (
            f"Replay({len(self)} steps, {self.share_clipped:.1%} clipped, {self.share_skipped:.1%} skipped, "
            f"largest norm {self.largest:.4g} before and {self.largest_after:.4g} after)"
        )


@on_the_host
def replay(
    policy: Policy,
    norms: Recording,
    *,
    losses: Iterable[float | None] | None = None,
    names: Sequence[str] | None = None,
    norm_type: float = 2.0,
) -> Replay:
    """Run a policy over recorded norms, with the code that runs in training.

    It does what `GradClipper(..., nonfinite="skip")` does for gradients of these norms: a step whose norm is not finite
    is skipped, and the policy does not see it. How clipping would have changed the training is not known: the norms
    that follow are those of the recording.

    Args:
        policy: The policy.
        norms: The recorded norms before clipping, one or more for each step: total norms; or mappings from names of
            parameters to their norms, such as `ClipResult.norms()` returns (a missing name had no gradient); or a
            tensor of shape (steps, parameters).
        losses: The loss of each step, for policies that use it; None for a step without one.
        names: The names of the columns of a tensor.
        norm_type: The order of the norms.

    Returns:
        What the policy did. If only total norms are given, policies with a threshold for each parameter, such as
        `AdaGC`, see one parameter, which has the total norm. If a policy limits elements, norms of an order other than
        infinity are not known afterwards. `clipped` then says whether elements may have been limited, and what would
        need these norms is left out.

    Raises:
        TypeError: If `policy` is not a policy.
        ValueError: If the policy needs more than norms of this order: norms of another order, norms of units as `AGC`
            does, or the number of elements of a parameter as `BlockRMS` does. If norms are negative, or losses or names
            do not fit them.

    Example:
        >>> from gradclip.analysis import replay
        >>> from gradclip.policies import FixedNorm, MedianClip
        >>> norms = [1.0, 1.2, 0.8, 1.1, 0.9] * 4 + [50.0, 1.0]
        >>> replay(FixedNorm(1.15), norms)
        Replay(22 steps, 22.7% clipped, 0.0% skipped, largest norm 50 before and 1.15 after)
        >>> replay(MedianClip(max_norm=10.0), norms).norms_after[-2:].tolist()
        [1.99999996..., 1.0]
    """
    check_policies("replay", (policy,))
    order = check_norm_type("replay", norm_type)
    each = needs_each(policy, order)
    layout, steps = read(norms, names, losses, order, each=each)
    return Run(policy, layout).play(steps)


def needs_each(policy: Policy, order: float) -> bool:
    """Whether a policy needs the norm of each parameter.

    Raises:
        ValueError: If it needs more than norms of an order.
    """
    for stage in policy.stages:
        if stage.scope == "unit":
            refuse_policy(policy, "norms of total or parameters", "needs those of units and of weights")
        if stage.norm_type not in {None, order}:
            refuse_policy(policy, f"norms of order {order:g}", f"needs order {stage.norm_type:g}")
    return any(stage.scope == "parameter" for stage in policy.stages)


@final
class Run:
    """A policy in the middle of a replay: what it has learned so far goes on with the steps that are played next."""

    def __init__(self, policy: Policy, layout: Layout) -> None:
        self._policy = policy
        self._stages = [Stage(stage, layout) for stage in policy.stages]
        self._layout = layout

    def play(self, steps: Iterable[Norms]) -> Replay:
        """Play some steps."""
        played = [self._step(norms) for norms in steps]
        before, left, thresholds, clipped, skipped = zip(*played, strict=True) if played else ((),) * 5
        columns = len(self._layout.names) if self._stages[0].scope == "parameter" else 1
        return Replay(
            norms=torch.tensor(before, dtype=torch.float64),
            norms_after=torch.tensor(left, dtype=torch.float64),
            thresholds=_table(thresholds, columns),
            clipped=torch.tensor(clipped, dtype=torch.bool),
            skipped=torch.tensor(skipped, dtype=torch.bool),
        )

    def branch(self) -> "Run":
        """Return a run that has learned the same: states do not change, so that two may go on from one."""
        other = copy.copy(self)
        other._stages = [copy.copy(stage) for stage in self._stages]
        return other

    def _step(self, norms: Norms) -> tuple[float, float, Scalar, bool, bool]:
        """Return the norm, that after, the threshold, and whether the step is clipped, and skipped."""
        work = Recorded(self._policy, norms)
        done = run(self._stages, work, "skip")
        before = float(norms.total)
        threshold = math.nan if done.asked is None else done.asked.threshold
        if done.skipped is not None:
            return before, math.nan, threshold, False, True
        return before, float(work.norms.total), threshold, work.clipped, False


def _table(thresholds: Sequence[Scalar], columns: int) -> Tensor:
    if columns == 1:
        return torch.tensor([float(x) for x in thresholds], dtype=torch.float64)
    rows = torch.full((len(thresholds), columns), math.nan, dtype=torch.float64)
    for row, threshold in zip(rows, thresholds, strict=True):
        row[:] = threshold
    return rows


def _largest(norms: Tensor) -> float:
    known = norms[norms.isfinite()]
    return known.max().item() if len(known) else math.nan
