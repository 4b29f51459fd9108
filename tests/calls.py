"""What may be asked of gradients that are on a device, where the host waits for nothing."""

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn import Parameter

import gradclip

BOUND: list[Tensor] = []
"""The bound, or the norm that is known: on the device of the gradients."""

CALLS: dict[str, Callable[[list[Parameter]], object]] = {
    "clips": lambda ps: gradclip.clip_grad_norm_(ps, 1.0),
    "clips, by a bound on the device": lambda ps: gradclip.clip_grad_norm_(ps, BOUND[0]),
    "measures": lambda ps: gradclip.clip_grad_norm_(ps, math.inf),
    "without eps": lambda ps: gradclip.clip_grad_norm_(ps, 1.0, eps=0.0),
    "keeps": lambda ps: gradclip.clip_grad_norm_(ps, 1.0, nonfinite="keep"),
    "order 1": lambda ps: gradclip.clip_grad_norm_(ps, 1.0, 1.0),
    "order 3.3": lambda ps: gradclip.clip_grad_norm_(ps, 1.0, 3.3),
    "order inf": lambda ps: gradclip.clip_grad_norm_(ps, 1.0, math.inf),
    "total norm": lambda ps: gradclip.get_total_norm([p.grad for p in ps if p.grad is not None]),
    "norms": gradclip.get_norms,
    "by a known norm": lambda ps: gradclip.clip_grads_with_norm_(ps, 1.0, BOUND[0]),
    "by value": lambda ps: gradclip.clip_grad_value_(ps, 0.1),
}
