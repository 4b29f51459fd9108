"""A rule for numbers of a device in a launch or two, where torch would have one for each operation."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, final

import torch

from gradclip.ops.triton.fusing import Kernels
from gradclip.ops.triton.recording import Flat, Leaf, recorded
from gradclip.tracing import is_captured

FEW = 1
"""Operations that torch is left to launch."""

MOST = 16
"""Ways to ask a rule that have kernels: other parameters may lack a gradient at every step."""

SEEN = 64
"""Ways that were asked, of which it is known when they come again."""


class Known(NamedTuple):
    """What is known of a rule that is asked in one way: its kernels if there are any, and a template."""

    kernels: Kernels | None = None
    template: Any = None


@final
class Rule:
    """A rule, as it is asked again and again.

    Args:
        device: Where its numbers are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._known: dict[Hashable, Known] = {}
        self._seen: dict[Hashable, None] = {}

    def __call__(self, flat: Flat, way: Hashable, leaves: Sequence[Leaf]) -> tuple[list[Any], Any] | None:
        """Return what a rule returns, or None where torch is to do it.

        Args:
            flat: The rule, from leaves to leaves and a template.
            way: All else that it depends on than numbers of the device. It is recorded where it is asked so again.
            leaves: Numbers of the host, and float64 tensors of the device.
        """
        if (known := self._known.get(way)) is not None:
            return None if known.kernels is None else (known.kernels(leaves, self.device), known.template)
        if way not in self._seen:
            if len(self._seen) == SEEN:
                del self._seen[next(iter(self._seen))]
            self._seen[way] = None
            return None  # the first time may be the last
        if len(self._known) == MOST or is_captured(self.device):
            return None
        self._known[way], found = self._learned(flat, leaves)
        return found

    def _learned(self, flat: Flat, leaves: Sequence[Leaf]) -> tuple[Known, tuple[list[Any], Any] | None]:
        try:
            graph = recorded(flat, leaves, self.device)
            if graph.operations <= FEW:
                return Known(), None
            kernels = Kernels(graph, len(leaves))
            return Known(kernels, graph.template), (kernels(leaves, self.device), graph.template)
        except torch.OutOfMemoryError:
            raise  # which says nothing of the rule
        except Exception:  # noqa: BLE001 -- a rule of a user may do anything, and torch can do it
            return Known(), None
