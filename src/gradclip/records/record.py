"""What is written down about one clip."""

import time
from dataclasses import asdict, dataclass
from typing import Any, final

from gradclip.result import ClipResult


@final
@dataclass(frozen=True, slots=True)
class ClipRecord:
    """One clip in plain numbers and words, which outlive the tensors.

    Attributes:
        step: The number of the clip, from 1.
        time: When it was, in seconds since 1970.
        status: `"ok"`, `"clipped"`, `"skipped_nonfinite"`, `"skipped_spike"` or `"skipped_scaler"`.
        total_norm: The total norm before clipping.
        total_norm_after: The total norm after it; NaN where it is not known.
        threshold: The bound on the total norm; None where the policy bounds parts.
        coefficient: What the total norm was multiplied by; NaN where it is not known.
        policy: The policy, as it was written.
        worst: The parameters with the largest norms and their shares of the sum of squares, where they were measured.
    """

    step: int
    time: float
    status: str
    total_norm: float
    total_norm_after: float
    threshold: float | None
    coefficient: float
    policy: str
    worst: tuple[tuple[str, float], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def record_of(result: ClipResult, policy: str) -> ClipRecord:
    """Return the record of a result, now; waits for the device where the numbers are."""
    return ClipRecord(
        step=result.step,
        time=time.time(),
        status=result.status.value,
        total_norm=result.total_norm,
        total_norm_after=result.total_norm_after,
        threshold=result.threshold,
        coefficient=result.coefficient,
        policy=policy,
        worst=tuple(result.worst()),
    )
