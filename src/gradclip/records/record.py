"""What is written down about one clip."""

import math
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, final


@final
@dataclass(frozen=True, slots=True)
class ClipRecord:
    """One clip, in plain numbers and words that outlive the tensors.

    Attributes:
        step: The number of the clip, from 1.
        time: The time of the clip, in seconds since 1970.
        status: `"ok"`, `"clipped"`, `"skipped_nonfinite"`, `"skipped_spike"` or `"skipped_scaler"`.
        total_norm: The total norm before clipping.
        total_norm_after: The total norm after clipping; NaN if it is not known.
        threshold: The threshold of the total norm; None if the policy clips parts of the model.
        coefficient: The factor by which the total norm changed; NaN if it is not known.
        policy: The `repr` of the policy.
        worst: The parameters with the largest norms and their shares of the sum of squares, if they were measured.
        group: A name that tells the parameters of this clipper from others; None unless a sink or `patch` sets it.
        lr: The learning rate of the first parameter group of the optimizer that stepped; None for a clip by hand.
        loss: The loss that the clipper was given; otherwise None.
        nonfinite: If the total norm is NaN or infinite, the counts of NaN and of infinite elements on this rank, by
            parameter, for the first 100 that have any; otherwise None.
        norms: The norm of each parameter, at the steps that `norms_every` asks for; otherwise None.
        alarms: The alarms that begin at this step; see `Alarms`.
        optimizer: The class name of the optimizer that stepped; None for a clip by hand.

    Example:
        >>> import torch, gradclip
        >>> p = torch.nn.Parameter(torch.zeros(2))
        >>> p.grad = torch.tensor([3.0, 4.0])
        >>> records = gradclip.records.Memory()
        >>> result = gradclip.GradClipper([("weight", p)], sinks=[records]).clip(loss=0.5)
        >>> record = records.records[0]
        >>> record.step, record.status, record.total_norm, record.loss
        (1, 'clipped', 5.0, 0.5)
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
    group: str | None = None
    lr: float | None = None
    loss: float | None = None
    nonfinite: dict[str, tuple[int, int]] | None = None
    norms: dict[str, float] | None = None
    alarms: tuple[str, ...] = ()
    optimizer: str | None = field(default=None, compare=False)  # of the loop, not of what the clip did

    @property
    def clipped(self) -> bool:
        """Whether any gradient was scaled down or limited."""
        return self.status == "clipped"

    @property
    def skipped(self) -> bool:
        """Whether the step was skipped."""
        return self.status.startswith("skipped")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, in order; fields that are dicts are not copied."""
        return dict(zip(FIELDS, values_of(self), strict=True))

    def metrics(self) -> dict[str, float]:
        """Return the numbers that a logger plots, by constant tags; unknown, NaN and infinite numbers are left out.

        If the record has a `group`, its name comes before the tags, so that each group has its own curves.

        Example:
            >>> from gradclip import ClipRecord
            >>> record = ClipRecord(7, 0.0, "clipped", 5.0, 1.0, 1.0, 0.2, "FixedNorm()", lr=0.1)
            >>> for tag, number in record.metrics().items():
            ...     print(tag, number)
            gradclip/total_norm 5.0
            gradclip/total_norm_after 1.0
            gradclip/threshold 1.0
            gradclip/coefficient 0.2
            gradclip/clipped 1.0
            gradclip/skipped 0.0
            gradclip/lr 0.1
        """
        numbers = {
            "gradclip/total_norm": self.total_norm,
            "gradclip/total_norm_after": self.total_norm_after,
            "gradclip/threshold": self.threshold,
            "gradclip/coefficient": self.coefficient,
            "gradclip/clipped": float(self.clipped),
            "gradclip/skipped": float(self.skipped),
            "gradclip/lr": self.lr,
        }
        prefix = "" if self.group is None else f"{self.group}/"
        return {f"{prefix}{tag}": x for tag, x in numbers.items() if x is not None and math.isfinite(x)}


FIELDS = tuple(each.name for each in fields(ClipRecord))
"""The names of what a record holds, in order."""

values_of = attrgetter(*FIELDS)
"""(record) -> its values, in order."""
