"""A rule for numbers of a device in a launch or two, where torch would have one for each operation."""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple, final

import torch

from gradclip.ops.triton.fusing import Kernels
from gradclip.ops.triton.recording import Asked, Flat, Leaf, recorded
from gradclip.tracing import is_captured

FEW = 1
"""Operations that torch is left to launch."""

MOST = 16
"""Ways to ask a rule that are remembered, and graphs of each: other parameters may lack a gradient at every step."""


class Known(NamedTuple):
    """What is known of a rule that is asked in one way: when it holds, its kernels if there are any, and a template."""

    asked: list[Asked]
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
        self._known: dict[Hashable, list[Known]] = {}

    def __call__(self, flat: Flat, way: Hashable, leaves: Sequence[Leaf]) -> tuple[list[Any], Any] | None:
        """Return what a rule returns, or None where torch is to do it.

        Args:
            flat: The rule, from leaves to leaves and a template.
            way: All that it depends on but for the leaves. It is recorded where it is asked in one way again.
            leaves: Numbers of the host, and float64 tensors of the device.
        """
        if (graphs := self._known.get(way)) is None:
            if len(self._known) < MOST:
                self._known[way] = []
            return None  # the first time may be the last
        for known in graphs:
            if all(asked.holds(leaves) for asked in known.asked):
                return None if known.kernels is None else (known.kernels(leaves, self.device), known.template)
        if len(graphs) == MOST or is_captured(self.device):
            return None
        known, found = self._learned(flat, leaves)
        graphs.append(known)
        return found

    def _learned(self, flat: Flat, leaves: Sequence[Leaf]) -> tuple[Known, tuple[list[Any], Any] | None]:
        asked: list[Asked] = []
        try:
            graph = recorded(flat, leaves, self.device, asked)
            if graph.operations <= FEW:
                return Known(asked), None
            kernels = Kernels(graph, len(leaves))
            return Known(asked, kernels, graph.template), (kernels(leaves, self.device), graph.template)
        except torch.OutOfMemoryError:
            raise  # which says nothing of the rule
        except Exception:  # noqa: BLE001 -- a rule of a user may do anything, and torch can do it
            return Known(asked), None
