"""One run, whose gradients every policy is shown: the network of `gradclip demo`, with one damaged batch.

The run itself is clipped at 1.0. Each policy has parameters of its own, which share the weights of the run and hold
copies of its gradients, so all see the same and none changes what the others see.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gradclip
from gradclip.cli.demo.text import load
from gradclip.cli.demo.training import STREAMS, build, one_thread, windows
from gradclip.cli.presets import PRESETS

STEPS, LEARNING_RATE, MAX_NORM = 200, 2.0, 1.0

CONSTANT = ("fixed", "smooth")
CEILING = 2.0
"""The bound of rules that are a constant is that of the run; of others a higher one, so that their own bounds show."""

DAMAGED, TIMES = 120, 30.0
"""The step whose loss is multiplied, and by what."""


class Seen(NamedTuple):
    """What came to a policy and what it made of it, step by step.

    Attributes:
        norms: The total norms before clipping, of order 2.
        after: The same after it; 0 where the step is skipped.
        thresholds: What the total norm was held against; None where parts are bounded.
    """

    norms: list[float]
    after: list[float]
    thresholds: list[float | None]


def norm_of(parameters: list[nn.Parameter]) -> float:
    """Return the total norm of gradients."""
    return gradclip.get_total_norm([p.grad for p in parameters if p.grad is not None]).item()


@functools.cache
def run() -> dict[str, Seen]:
    """Train once, and return what each policy of the demo did, by its name there."""
    corpus = load(None)
    model = build(len(corpus.symbols), seed=0)
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE)
    bounds = {preset: MAX_NORM if preset.name in CONSTANT else CEILING for preset in PRESETS}
    shadows = {preset.name: Shadow(model, preset.policy(bound)) for preset, bound in bounds.items()}
    state: Tensor | None = None
    with one_thread():
        for step, (inputs, targets) in zip(range(1, STEPS + 1), windows(corpus.training, STREAMS), strict=False):
            logits, state = model(inputs, state)
            loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            (loss * (TIMES if step == DAMAGED else 1.0)).backward()
            for shadow in shadows.values():
                shadow.clip([p.grad for p in parameters], loss)
            gradclip.clip_grad_norm_(parameters, MAX_NORM)
            optimizer.step()
            state = state.detach()
    return {name: shadow.seen for name, shadow in shadows.items()}


class Shadow:
    """The weights of a model, with gradients of their own and a policy that clips them."""

    def __init__(self, model: nn.Module, policy: gradclip.policies.Policy) -> None:
        """Share the weights."""
        named = {name: nn.Parameter(p.detach()) for name, p in model.named_parameters()}
        self.parameters = list(named.values())
        self.clipper = gradclip.GradClipper(named.items(), policy)
        self.seen = Seen([], [], [])

    def clip(self, gradients: list[Tensor], loss: Tensor) -> None:
        """Clip copies of gradients, and write down what that did."""
        for p, gradient in zip(self.parameters, gradients, strict=True):
            p.grad = gradient.clone()
        self.seen.norms.append(norm_of(self.parameters))
        result = self.clipper.clip(loss=loss)
        self.seen.after.append(0.0 if result.skipped else norm_of(self.parameters))
        self.seen.thresholds.append(result.threshold)
