"""What one clip did."""

import math
from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple, final

import torch
from torch import Tensor

from gradclip.numbers import Condition, Scalar, on_host


@final
class Status(str, Enum):
    """How one clip ended. A member equals its name in lower case: `result.status == "clipped"` is true."""

    OK = "ok"
    """No gradient was scaled down or limited."""

    CLIPPED = "clipped"
    """Some gradients were scaled down or limited."""

    SKIPPED_NONFINITE = "skipped_nonfinite"
    """The norm is NaN or infinite, and the step is skipped."""

    SKIPPED_SPIKE = "skipped_spike"
    """The policy skips the step."""

    SKIPPED_SCALER = "skipped_scaler"
    """A `torch.amp.GradScaler` found an overflow and skips the step itself."""

    __str__ = str.__str__
    __format__ = str.__format__


class Outcome(NamedTuple):
    """What came of a clip: the total norm after it, its bound, what it was multiplied by, whether that is below 1."""

    after: Scalar
    threshold: Scalar | None
    coef: Scalar
    shrunk: bool | Tensor


class Each(NamedTuple):
    """The norms of the gradients of single parameters.

    Attributes:
        names: The names of all parameters.
        norms: The norms of those that have a gradient, as a vector.
        places: Where these are among all, as whole numbers; None where all have one.
    """

    names: tuple[str, ...]
    norms: Tensor
    places: Sequence[int] | None = None

    def by_name(self) -> dict[str, float]:
        """Return the norms by name."""
        return dict(zip(self._present(), self.norms.tolist(), strict=True))

    def worst(self, count: int) -> list[tuple[str, float]]:
        """Return the names of the largest norms, and their shares in the sum of all squares; see `ClipResult.worst`."""
        largest, places = self.norms.topk(max(0, min(count, len(self.norms))))  # of which NaN is the largest
        sizes = largest.tolist()
        if not sizes:
            return []
        names, whole = self._present(), torch.linalg.vector_norm(self.norms).item()
        if math.isfinite(sizes[0]) and not TINY < whole < math.inf:  # of whose squares the sum leaves float64
            whole = sizes[0] * torch.linalg.vector_norm(self.norms / sizes[0]).item()
        shares = [(size / whole) ** 2 if 0.0 < whole < math.inf else math.nan for size in sizes]
        found = zip(places.tolist(), sizes, shares, strict=True)
        return [(names[place], share) for place, size, share in found if size != 0.0 and share != 0.0]

    def _present(self) -> tuple[str, ...]:
        return self.names if self.places is None else tuple(self.names[place] for place in self.places)


TINY = 1e-140
"""The squares of smaller norms are no normal float64 any more."""


class Unread(NamedTuple):
    """Whether a step happens, where a device knows.

    Attributes:
        withheld: Whether it does not.
        overflow: Whether a scaler keeps it from happening.
        skips_nonfinite: Whether it does not happen where the total norm is NaN or infinite.
    """

    withheld: Condition
    overflow: Condition
    skips_nonfinite: bool

    def reason(self, total: Scalar) -> Status | None:
        """Return why it does not, or None, given the total norm; waits for what is on a device."""
        if not on_host(self.withheld):
            return None
        if on_host(self.overflow):
            return Status.SKIPPED_SCALER
        is_spike = not self.skips_nonfinite or math.isfinite(on_host(total))
        return Status.SKIPPED_SPIKE if is_spike else Status.SKIPPED_NONFINITE


@final
class ClipResult:
    """What one call of `GradClipper.clip` did.

    Numbers stay on the device of the gradients until they are read: on a device other than the CPU, reading one of the
    properties below waits for the device. For a clip in a captured graph, they are those of the latest replay.

    Attributes:
        step: The number of the clip, from 1.
    """

    __slots__ = ("_each", "_found", "_is_replayed", "_judge", "_skipped", "_total", "step")

    def __init__(
        self,
        step: int,
        total: Scalar,
        judge: Callable[[Status | None], Outcome],
        each: Callable[[], Each | None],
        skipped: Status | Unread | None = None,
        *,
        is_replayed: bool = False,
    ) -> None:
        """Take the total norm, and what finds out the rest once it is asked for: few steps are looked at.

        Where it `is_replayed`, that is found out each time.
        """
        self.step = step
        self._skipped = skipped
        self._total = total
        self._judge = judge
        self._each = each
        self._found: Outcome | None = None
        self._is_replayed = is_replayed

    def _outcome(self) -> Outcome:
        if self._found is None or self._is_replayed:
            self._found = self._judge(self.skipped)
        return self._found

    @property
    def skipped(self) -> Status | None:
        """Why the step is skipped, or None."""
        if not isinstance(self._skipped, Unread):
            return self._skipped
        found = self._skipped.reason(self._total)
        if not self._is_replayed:
            self._skipped = found
        return found

    @property
    def total_norm(self) -> float:
        """The total norm before clipping."""
        return on_host(self._total)

    @property
    def total_norm_after(self) -> float:
        """The total norm after clipping; NaN if only another pass over the gradients could tell.

        In a `chain` whose policies measure norms of different orders, this norm has the last order, and `total_norm`
        the first.
        """
        return on_host(self._outcome().after)

    @property
    def threshold(self) -> float | None:
        """The threshold of the total norm; None if the policy clips parts of the model and not the total norm."""
        threshold = self._outcome().threshold
        return None if threshold is None else on_host(threshold)

    @property
    def coefficient(self) -> float:
        """The factor by which the total norm changed; NaN if `total_norm_after` is NaN."""
        return on_host(self._outcome().coef)

    @property
    def clipped(self) -> bool:
        """Whether any gradient was scaled down or limited; if `total_norm_after` is NaN, possibly none was."""
        return bool(on_host(self._outcome().shrunk))

    @property
    def status(self) -> Status:
        """How the clip ended."""
        if (skipped := self.skipped) is not None:
            return skipped
        return Status.CLIPPED if self.clipped else Status.OK

    @property
    def has_norms(self) -> bool:
        """Whether the norm of each parameter was measured, for the policy or because of `norms_every`."""
        return self._each() is not None

    def norms(self) -> dict[str, float]:
        """Return the norm of the gradient of each parameter before clipping, by name.

        Parameters without a gradient are left out.

        Raises:
            RuntimeError: If the norms were not measured.
        """
        if (each := self._each()) is None:
            raise RuntimeError("`norms()` of this result were not measured. Pass `norms_every=1` to `GradClipper`.")
        return each.by_name()

    def worst(self, count: int = 3) -> list[tuple[str, float]]:
        """Return the parameters with the largest norms, and the share of each in the sum of all squares.

        Args:
            count: How many to return at most.

        Returns:
            Pairs of name and share in [0, 1], the largest first, without parameters of share 0; empty if the norms were
            not measured. A non-finite norm comes first, with a share of NaN.
        """
        each = self._each()
        return [] if each is None else each.worst(count)

    def __repr__(self) -> str:
        return (
            f"ClipResult(step={self.step}, status={self.status.value!r}, total_norm={self.total_norm:.6g}, "
            f"total_norm_after={self.total_norm_after:.6g})"
        )
