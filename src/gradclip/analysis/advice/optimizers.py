"""What a bound that most steps reach does, by the optimizer: whose steps are as long as gradients, or are not."""

from typing import NamedTuple, final

import torch

from gradclip.analysis.advice.judged import Judged
from gradclip.analysis.series import Series

PLAIN = ("sgd", "momentum", "nesterov")
"""Parts of the names of optimizers whose steps are as long as their gradients."""

SCALE_FREE = ("ada", "lamb", "lars", "lion", "muon", "rmsprop", "shampoo", "sign", "sophia")
"""Parts of the names of optimizers that divide gradients by what they usually are."""


@final
class Trained(NamedTuple):
    """How the recorded run took its steps.

    Attributes:
        optimizer: The class of its optimizer; None where it is not known.
        lr: The median learning rate of the judged steps; None where it is not known.
    """

    optimizer: str | None
    lr: float | None

    @property
    def follows_scale(self) -> bool | None:
        """Whether its steps are as long as its gradients; None where nobody knows."""
        name = (self.optimizer or "").casefold()
        if any(part in name for part in SCALE_FREE):
            return False
        return True if any(part in name for part in PLAIN) else None


def trained(series: Series, chosen: Judged, told: str | None) -> Trained:
    """Return how a run took its steps; what is told of its optimizer counts more than what was recorded.

    Raises:
        TypeError: If what is told is no name.
    """
    if told is not None and not isinstance(told, str):
        msg = f"`advise(optimizer=...)` must be the name of a class, got {type(told).__name__}. Pass 'AdamW', say."
        raise TypeError(msg)
    rates = torch.empty(0) if series.lrs is None else series.lrs[chosen.places]
    known = rates[rates.isfinite()]
    return Trained(told or series.optimizer, known.median().item() if len(known) else None)
